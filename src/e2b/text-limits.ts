/**
 * The limit of the texts that a client attaches to a sandbox. They stand in the ledger, in every list and in the
 * daemon's memory for as long as the sandbox exists.
 */
import { DomainError } from "../errors.ts";

/** For metadata and variables together, in UTF-8, names and values. */
export const maxSandboxTextBytes = 64 * 1024;

/** The two fields of a body that carry texts, in E2B's spelling. */
interface SandboxTexts {
  readonly metadata?: Readonly<Record<string, string>> | null | undefined;
  readonly envVars?: Readonly<Record<string, string>> | null | undefined;
}

/** @throws DomainError `invalid_argument` that names the larger field, its size and the limit */
export function checkSandboxTexts({ metadata, envVars }: SandboxTexts): void {
  const sizes = { metadata: sizeOf(metadata), envVars: sizeOf(envVars) };
  if (sizes.metadata + sizes.envVars <= maxSandboxTextBytes) return;
  const field = sizes.metadata > sizes.envVars ? "metadata" : "envVars";
  const message = `${field} has ${sizes[field]} bytes; metadata and envVars together may have ${maxSandboxTextBytes}`;
  throw new DomainError("invalid_argument", message, { field, sizeBytes: sizes[field] });
}

function sizeOf(texts: Readonly<Record<string, string>> | null | undefined): number {
  let bytes = 0;
  for (const [name, value] of Object.entries(texts ?? {})) bytes += Buffer.byteLength(name) + Buffer.byteLength(value);
  return bytes;
}
