/**
 * The client environment: the variables that point an E2B SDK at this daemon, and the file in which the daemon notes
 * where it listens.
 */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";

const addressFile = "address.json";

/** The address at which a daemon serves HTTPS, and the files with which clients trust it. */
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

/** The address at which the daemon of this state folder listens, or last listened; undefined before its first start. */
export async function readAddress(stateDir: string): Promise<Address | undefined> {
  try {
    return addressSchema.parse(JSON.parse(await readFile(join(stateDir, addressFile), "utf8")));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** The page at which a person sees the daemon's sandboxes. The link opens it with the key, so it is a secret. */
function consoleLink(apiKey: string, { url }: Address): string {
  return `${url}/#key=${apiKey}`;
}

/** What `firkin env` prints: the variables, and as a comment the link to the console. */
export function describeAccess(apiKey: string, address: Address): string {
  return `${clientEnvironment(apiKey, address)}# console: ${consoleLink(apiKey, address)}\n`;
}

/**
 * What `firkin serve` prints when it listens. What is no terminal keeps it, like a journal or a file, so the key is shown
 * on a terminal alone.
 */
export function describeStart(
  version: string,
  apiKey: string,
  address: Address,
  output: { readonly isTTY?: boolean },
): string {
  const { url, https } = address;
  const front = https ? ` and https://api.${https.domain} (npx firkin tls says how to trust and resolve that)` : "";
  const access = output.isTTY
    ? describeAccess(apiKey, address)
    : "The API key and the link to the console: npx firkin env\n";
  return `\nfirkin ${version} listens on ${url}${front}\n\n${access}\n`;
}

/**
 * The lines that point an unmodified E2B SDK at the daemon, for `eval`. With HTTPS the domain is enough, once its names
 * resolve. Without HTTPS every call goes to one URL (docs/compatibility.md#ports).
 */
function clientEnvironment(apiKey: string, { url, https }: Address): string {
  const assignments = https
    ? [`E2B_DOMAIN=${https.domain}`, `NODE_EXTRA_CA_CERTS=${https.authority}`, `SSL_CERT_FILE=${https.bundle}`]
    : [`E2B_API_URL=${url}`, `E2B_SANDBOX_URL=${url}`];
  const lines = [`E2B_API_KEY=${apiKey}`, ...assignments].map((assignment) => `export ${assignment}\n`);
  return `${https ? "unset E2B_API_URL E2B_SANDBOX_URL\n" : ""}${lines.join("")}`;
}
