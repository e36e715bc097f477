/**
 * The messages of the helper's control socket (`helper-swift/README.md` is the contract). This file alone checks the
 * helper's messages. It and the helper judge the corpus in `test/corpus/helper/` alike.
 */
import { z } from "zod";
import { DomainError, isDomainError } from "../../errors.ts";

/** Raised when a message changes its meaning. Helper and daemon of different versions refuse each other. */
export const protocolVersion = 1;

/** The longest line, without its newline. */
export const maxLineBytes = 1 << 20;

const absolutePath = z.string().regex(/^\/[^\0]*$/, "an absolute path");
const positive = z.number().int().positive();

const machineSchema = z.object({
  vcpuCount: positive,
  memoryMiB: positive,
  diskMiB: positive,
  /** The machine's own writable raw image; the helper makes it, as a clone of `diskSource`. */
  disk: absolutePath,
  /** Base64 of the framework's opaque identifier. Absent at a first start. */
  machineIdentifier: z.string().optional(),
  macAddress: z.string().optional(),
});

export const optionalDeviceSchema = z.enum(["entropy", "network"]);
/** A device that a machine can do without, where a host cannot save machines that have it. */
export type OptionalDevice = z.infer<typeof optionalDeviceSchema>;

const startSchema = z.object({
  machine: machineSchema,
  diskSource: absolutePath,
  kernel: absolutePath,
  initramfs: absolutePath,
  commandLine: z.string(),
  /** The file to which the guest's console is appended. Absent: the machine has no serial port. */
  serialLog: absolutePath.optional(),
  /** A restore leaves out the same devices. */
  withoutDevices: z.array(optionalDeviceSchema).optional(),
});
export type StartOrder = z.infer<typeof startSchema>;

const restoreSchema = z.object({
  start: startSchema.extend({ machine: machineSchema.required() }),
  stateFile: absolutePath,
});
/** Without a `stateFile` only the disk is saved. */
const saveSchema = z.object({ stateFile: absolutePath.optional(), diskClone: absolutePath });

const id = z.number().int().nonnegative();
const plain = <Name extends string>(op: Name) => z.object({ id, op: z.literal(op) });

/** Every request of the daemon. */
export const requestSchema = z.discriminatedUnion("op", [
  z.object({ id, op: z.literal("hello"), version: z.number().int() }),
  z.object({ id, op: z.literal("start"), ...startSchema.shape }),
  z.object({ id, op: z.literal("restore"), ...restoreSchema.shape }),
  z.object({ id, op: z.literal("save"), ...saveSchema.shape }),
  plain("pause"),
  plain("resume"),
  plain("stop"),
  plain("kill"),
  plain("stats"),
  plain("events"),
]);
export type HelperRequest = z.infer<typeof requestSchema>;

const capabilitySchema = z.object({ supported: z.boolean(), reason: z.string().optional() });
export type Capability = z.infer<typeof capabilitySchema>;

// biome-ignore format: one list
export const machineStateSchema = z.enum([
  "new", "starting", "running", "pausing", "paused", "resuming", "saving", "restoring", "stopping", "stopped", "failed",
]);
export type MachineState = z.infer<typeof machineStateSchema>;

export const helloSchema = z.object({
  version: z.number().int(),
  helperVersion: z.string(),
  framework: z.string(),
  pid: positive,
  state: machineStateSchema,
  host: z.object({ hostId: z.string(), osBuild: z.string() }),
  capabilities: z.record(z.string(), capabilitySchema),
});
export type Hello = z.infer<typeof helloSchema>;

/** The identity that a machine was started with and must be restored with. */
export const identitySchema = z.object({ machineIdentifier: z.string().min(1), macAddress: z.string().min(1) });

/** Runs `[first, count]` of blocks of 1 MiB of the cloned disk that hold data. */
export const savedSchema = z.object({
  dataBlocks: z.array(z.tuple([z.number().int().nonnegative(), positive])),
});

export const statsSchema = z.object({
  state: machineStateSchema,
  footprintBytes: z.number().int().nonnegative(),
  streams: z.number().int().nonnegative(),
});

export const nothingSchema = z.object({});

const errorSchema = z.object({
  // biome-ignore format: one list
  code: z.enum([
    "bad_message", "unknown_operation", "unsupported_version", "hello_first", "invalid_argument", "invalid_state",
    "host_locked", "framework", "input_output",
  ]),
  message: z.string(),
  domain: z.string().optional(),
  number: z.number().int().optional(),
});
export type HelperError = z.infer<typeof errorSchema>;

const successSchema = z.object({ id, ok: z.literal(true), result: z.record(z.string(), z.unknown()) });
const failureSchema = z.object({ id: id.nullable(), ok: z.literal(false), error: errorSchema });
const eventSchema = z.object({ event: z.literal("state"), state: machineStateSchema, detail: z.string().optional() });

/** Every message of the helper. */
export type HelperMessage =
  | { readonly kind: "success"; readonly id: number; readonly result: Readonly<Record<string, unknown>> }
  | { readonly kind: "failure"; readonly id: number | null; readonly error: HelperError }
  | { readonly kind: "event"; readonly state: MachineState; readonly detail: string | undefined };

/**
 * Decodes one line of the helper.
 * @throws DomainError `machine_failed` for a line that is no message of this version
 */
export function decodeHelperMessage(line: string): HelperMessage {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw new DomainError("machine_failed", "the helper sent something that is not JSON", {}, { cause: error });
  }
  const parsed = z.union([successSchema, failureSchema, eventSchema]).safeParse(value);
  if (!parsed.success) {
    const start = line.slice(0, 200);
    throw new DomainError("machine_failed", `the helper sent something that is no message: ${start}`);
  }
  const message = parsed.data;
  if ("event" in message) return { kind: "event", state: message.state, detail: message.detail };
  return message.ok
    ? { kind: "success", id: message.id, result: message.result }
    : { kind: "failure", id: message.id, error: message.error };
}

/** Turns a refusal of the helper into the daemon's error. */
export function toDomainError(op: string, { code, message, domain, number }: HelperError): DomainError {
  const origin = domain === undefined ? "" : ` (${domain} ${number ?? "?"})`;
  const details = { helperCode: code, ...(domain === undefined ? {} : { domain, number }) };
  const text = `the helper cannot ${op}: ${message}${origin}`;
  switch (code) {
    case "host_locked":
      return new DomainError("not_ready", `${text}. Unlock the Mac's screen as the user of this daemon.`, details);
    case "invalid_state":
    case "invalid_argument":
      return new DomainError(code, text, details);
    case "unsupported_version":
      return new DomainError("failed_precondition", `${text}. Build it anew: scripts/setup/build-helper`, details);
    case "bad_message":
    case "unknown_operation":
    case "hello_first":
    case "framework":
    case "input_output":
      return new DomainError("machine_failed", text, details);
    default:
      return code satisfies never;
  }
}

/** `VZError.Code.restore`, the framework's only code for a failed restore. */
const restoreRefused = 12;

/** Whether the framework itself refused a restore, be it this error or the reason of it. */
export function isRestoreRefusal(error: unknown): boolean {
  if (!isDomainError(error)) return false;
  const { helperCode, number } = error.details;
  return (helperCode === "framework" && number === restoreRefused) || isRestoreRefusal(error.cause);
}
