/** What a client must export to use this daemon, and the key it needs: made at the first start, kept in a 0600 file. */
import { randomBytes } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { DomainError } from "./errors.ts";

const keyFile = "api-key";
const addressFile = "address.json";

/** A new API key: `e2b_` and 40 hex digits, a form that every client accepts. */
export function newApiKey(): string {
  return `e2b_${randomBytes(20).toString("hex")}`;
}

/** Reads the machine's own API key, or makes one. */
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

/** Notes where the daemon listens, for `firkin env`. */
export async function writeAddress(stateDir: string, url: string): Promise<void> {
  await writeFile(join(stateDir, addressFile), JSON.stringify({ url, pid: process.pid }), { mode: 0o600 });
}

/** Where the daemon of this state folder listens, or last listened; undefined before its first start. */
export async function readAddress(stateDir: string): Promise<string | undefined> {
  try {
    const { url } = JSON.parse(await readFile(join(stateDir, addressFile), "utf8")) as { url?: unknown };
    return typeof url === "string" ? url : undefined;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** The lines that point an unmodified E2B SDK at the daemon (reference 3.2), for `eval`. */
export function clientEnvironment(apiKey: string, url: string): string {
  return [`E2B_API_KEY=${apiKey}`, `E2B_API_URL=${url}`, `E2B_SANDBOX_URL=${url}`]
    .map((assignment) => `export ${assignment}\n`)
    .join("");
}
