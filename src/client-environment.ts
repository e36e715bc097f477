/** What a client must export to use this daemon, and the key it needs: made at the first start, kept in a 0600 file. */
import { randomBytes } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
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

/** Where a daemon serves HTTPS, and the files with which clients trust it. */
export interface HttpsAddress {
  /** With the port, unless it is 443. */
  readonly domain: string;
  readonly authority: string;
  readonly bundle: string;
}

export interface Address {
  readonly url: string;
  readonly https?: HttpsAddress | undefined;
}

const addressSchema = z.object({
  url: z.string(),
  https: z.object({ domain: z.string(), authority: z.string(), bundle: z.string() }).optional(),
});

/** Notes where the daemon listens, for `firkin env`. */
export async function writeAddress(stateDir: string, address: Address): Promise<void> {
  await writeFile(join(stateDir, addressFile), JSON.stringify({ ...address, pid: process.pid }), { mode: 0o600 });
}

/** Where the daemon of this state folder listens, or last listened; undefined before its first start. */
export async function readAddress(stateDir: string): Promise<Address | undefined> {
  try {
    return addressSchema.parse(JSON.parse(await readFile(join(stateDir, addressFile), "utf8")));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/**
 * The lines that point an unmodified E2B SDK at the daemon (reference 3.1, 3.2), for `eval`. With HTTPS the domain says
 * it all, once its names resolve; without, every call goes to one URL.
 */
export function clientEnvironment(apiKey: string, { url, https }: Address): string {
  const assignments = https
    ? [`E2B_DOMAIN=${https.domain}`, `NODE_EXTRA_CA_CERTS=${https.authority}`, `SSL_CERT_FILE=${https.bundle}`]
    : [`E2B_API_URL=${url}`, `E2B_SANDBOX_URL=${url}`];
  const lines = [`E2B_API_KEY=${apiKey}`, ...assignments].map((assignment) => `export ${assignment}\n`);
  return `${https ? "unset E2B_API_URL E2B_SANDBOX_URL\n" : ""}${lines.join("")}`;
}
