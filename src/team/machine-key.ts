/** The machine's own API key: made at the first start, kept in a file that only its owner may read. */
import { randomBytes } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { DomainError } from "../errors.ts";

const keyFile = "api-key";

/** A new API key: `e2b_` and 40 hex digits, a form that every client accepts. */
export function newApiKey(): string {
  return `e2b_${randomBytes(20).toString("hex")}`;
}

/**
 * Reads the machine's own API key, or makes one.
 * @throws DomainError `invalid_state` when the file does not hold a key
 */
export async function readOrCreateApiKey(stateDir: string): Promise<string> {
  const path = join(stateDir, keyFile);
  const key = newApiKey();
  try {
    await writeFile(path, `${key}\n`, { mode: 0o600, flag: "wx" });
    return key;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  }
  const existing = (await readFile(path, "utf8")).trim();
  if (!/^e2b_[0-9a-f]{40}$/.test(existing)) {
    throw new DomainError(
      "invalid_state",
      `${path} does not hold an API key. Delete it; the next start makes a new one.`,
    );
  }
  return existing;
}
