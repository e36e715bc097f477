/** The JSON columns of the ledger. Their content is parsed here, and only here, on its way out. */
import { z } from "zod";
import { DomainError } from "../errors.ts";
import { engineNames, type MachineRecord, type SandboxIngress } from "../types.ts";

export const textMap = z.record(z.string(), z.string());

export const machineRecord: z.ZodType<MachineRecord> = z.object({
  engine: z.enum(engineNames),
  sessionId: z.string(),
  folder: z.string(),
  bootId: z.string().exactOptional(),
  processes: z.array(
    z.object({
      role: z.enum(["vm", "network"]),
      pid: z.number().int().positive(),
      startTime: z.string(),
      executable: z.string(),
    }),
  ),
});

export const sandboxIngress: z.ZodType<SandboxIngress> = z.object({
  allowPublicTraffic: z.boolean(),
  maskRequestHost: z.string().nullable(),
});

/**
 * @param column the place that the error names, as `table.column of id`
 * @throws internal when the text does not match `schema`
 */
export function fromJson<T>(schema: z.ZodType<T>, text: string, column: string): T {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new DomainError("internal", `The ledger has no JSON in ${column}`, {}, { cause: error });
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new DomainError("internal", `The ledger has something unknown in ${column}`, {}, { cause: parsed.error });
}

export function machineFromJson(text: string | null, column: string): MachineRecord | null {
  return text === null ? null : fromJson(machineRecord, text, column);
}

export function machineToJson(machine: MachineRecord | null): string | null {
  return machine === null ? null : JSON.stringify(machine);
}
