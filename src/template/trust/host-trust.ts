/**
 * What guests are to trust of the network around the host: the authorities that the host trusts, and the host's proxy.
 * This room reads it on the host and gives it to a booted guest; it may call the guest's agent, and no other room.
 */
import { execFile } from "node:child_process";
import { createHash, X509Certificate } from "node:crypto";
import { readFile } from "node:fs/promises";
import { promisify } from "node:util";
import { DomainError, messageOf } from "../../errors.ts";

export interface GuestTrust {
  /** Certificates of authorities, PEM, each once. Guests leave out those that they trust anyway. */
  readonly authorities: readonly string[];
  /** Variables that programs find their proxy by. */
  readonly proxyVariables: Readonly<Record<string, string>>;
}

export const noTrust: GuestTrust = { authorities: [], proxyVariables: {} };

export interface TrustSettings {
  /** `auto`, `none`, or a file. */
  readonly guestCa: string;
  /** `auto`, `none`, or a URL. */
  readonly guestProxy: string;
}

/** The bundles of authorities that Linux systems keep, the first that exists counts. */
const systemBundles = [
  "/etc/ssl/certs/ca-certificates.crt",
  "/etc/pki/tls/certs/ca-bundle.crt",
  "/etc/ssl/ca-bundle.pem",
  "/etc/ssl/cert.pem",
];
const bundleVariables = ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"];
const maxAuthorities = 1000;
const alwaysDirect = ["localhost", "127.0.0.1", "::1"];

/**
 * Reads the host's authorities and proxy as the settings say.
 * @throws DomainError `invalid_argument` naming the setting, when its file holds no certificate or its URL is none that
 *   a guest can use
 */
export async function readHostTrust(
  { guestCa, guestProxy }: TrustSettings,
  env: NodeJS.ProcessEnv = process.env,
): Promise<GuestTrust> {
  return { authorities: await readAuthorities(guestCa, env), proxyVariables: proxyVariablesOf(guestProxy, env) };
}

/** A text that is equal for equal trust; empty when there is nothing to trust. */
export function fingerprintOf({ authorities, proxyVariables }: GuestTrust): string {
  if (authorities.length === 0 && Object.keys(proxyVariables).length === 0) return "";
  return createHash("sha256")
    .update(JSON.stringify([authorities, proxyVariables]))
    .digest("hex");
}

/**
 * The certificates in a PEM text, as node prints them, each once, in an order of their own.
 * @throws TypeError or Error when one is no certificate
 */
export function certificatesIn(pem: string): string[] {
  const found = pem.match(/-----BEGIN (TRUSTED )?CERTIFICATE-----[\s\S]*?-----END \1?CERTIFICATE-----/g) ?? [];
  return [...new Set(found.map((text) => new X509Certificate(text).toString()))].sort();
}

async function readAuthorities(guestCa: string, env: NodeJS.ProcessEnv): Promise<string[]> {
  if (guestCa === "none") return [];
  const pem = guestCa === "auto" ? await hostBundles(env) : await readNamed(guestCa);
  let found: string[];
  try {
    found = certificatesIn(pem);
  } catch (error) {
    throw wrong("--guest-ca", `${describeSource(guestCa)} holds something that is no certificate: ${messageOf(error)}`);
  }
  if (guestCa !== "auto" && found.length === 0) throw wrong("--guest-ca", `${guestCa} holds no certificate (PEM)`);
  if (found.length > maxAuthorities) {
    throw wrong("--guest-ca", `${describeSource(guestCa)} holds more than ${maxAuthorities} certificates`);
  }
  return found;
}

const describeSource = (guestCa: string) => (guestCa === "auto" ? "the host's bundle of authorities" : guestCa);

async function readNamed(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    throw wrong("--guest-ca", `must be auto, none or a file with certificates: ${messageOf(error)}`);
  }
}

/** The bundle of the system, and those that variables name for programs of this user. */
async function hostBundles(env: NodeJS.ProcessEnv): Promise<string> {
  const named = bundleVariables.flatMap((name) => env[name] ?? []);
  const texts = await Promise.all([...new Set(named)].map(readIfThere));
  const system = process.platform === "darwin" ? await macBundle() : await firstThere(systemBundles);
  return [system, ...texts].join("\n");
}

async function firstThere(paths: readonly string[]): Promise<string> {
  for (const path of paths) {
    const text = await readIfThere(path);
    if (text !== "") return text;
  }
  return "";
}

/** The certificates that were added to a Mac for all its users. */
async function macBundle(): Promise<string> {
  const args = ["find-certificate", "-a", "-p", "/Library/Keychains/System.keychain"];
  return (await promisify(execFile)("security", args, { maxBuffer: 16 * 2 ** 20 })).stdout;
}

function readIfThere(path: string): Promise<string> {
  return readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return "";
    throw wrong("--guest-ca", `auto: ${path} cannot be read: ${messageOf(error)}`);
  });
}

/** Both spellings, because some programs know only one of them. */
function proxyVariablesOf(guestProxy: string, env: NodeJS.ProcessEnv): Record<string, string> {
  if (guestProxy === "none") return {};
  const own = (name: string) => env[name] || env[name.toUpperCase()] || undefined;
  const auto = guestProxy === "auto";
  const http = auto ? own("http_proxy") : guestProxy;
  const https = auto ? own("https_proxy") : guestProxy;
  if (http === undefined && https === undefined) return {};
  for (const url of [http, https]) if (url !== undefined) checkProxy(url);
  const direct = [...new Set([...alwaysDirect, ...((auto && own("no_proxy")?.split(",")) || [])])].join(",");
  const wanted = { http_proxy: http, https_proxy: https, no_proxy: direct };
  return Object.fromEntries(
    Object.entries(wanted).flatMap(([name, value]) =>
      value === undefined
        ? []
        : [
            [name, value],
            [name.toUpperCase(), value],
          ],
    ),
  );
}

function checkProxy(text: string): void {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (!url || !["http:", "https:"].includes(url.protocol) || /[\s'"\\]/.test(text)) {
    throw wrong("--guest-proxy", `must be auto, none or a URL like http://proxy.example:3128, not ${text}`);
  }
  if (/^(localhost|127\.|\[::1\]|0\.0\.0\.0)/.test(url.hostname)) {
    throw wrong("--guest-proxy", `${text} is on this host's loopback, which no sandbox reaches`);
  }
}

function wrong(setting: string, problem: string): DomainError {
  return new DomainError("invalid_argument", `wrong settings:\n  ${setting}: ${problem}`);
}
