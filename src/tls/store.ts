/**
 * The certificates of a domain, in files below the state folder: made when they are missing, made anew in time. Keys are
 * for their owner only. Another domain gets another authority, because each may only vouch for its own.
 */
import { chmod, mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { DomainError, messageOf } from "../errors.ts";
import { certificateEndMs, type KeyAndCertificate, makeAuthority, makeServerCertificate } from "./certificates.ts";

export interface DomainCertificates {
  readonly server: KeyAndCertificate;
  /** When the server's certificate ends, ms since the epoch. */
  readonly serverEndMs: number;
  readonly files: CertificateFiles;
  /** The authority was made just now: whoever trusted an earlier one must trust this one. */
  readonly isNewAuthority: boolean;
}

export interface CertificateFiles {
  /** The authority alone: what Node.js and the system's store want. */
  readonly authority: string;
  /** The authority and everything the system trusts: what replaces the system's list, as OpenSSL and Python do. */
  readonly bundle: string;
}

/** The server's is renewed when it has less than this left, and so is the authority. */
const renewBeforeMs = 30 * 86_400_000;
/** Where systems keep what they trust, as one file. */
const systemBundles = [
  "/etc/ssl/certs/ca-certificates.crt",
  "/etc/pki/tls/certs/ca-bundle.crt",
  "/etc/ssl/ca-bundle.pem",
  "/etc/ssl/cert.pem",
];

/** Where the certificates of a domain are, or will be. */
function certificateFiles(stateDir: string, domain: string): CertificateFiles {
  const folder = join(stateDir, "tls", domain);
  return { authority: join(folder, "authority.pem"), bundle: join(folder, "bundle.pem") };
}

/**
 * Reads the certificates of a domain, and makes what is missing or ends soon.
 * @throws DomainError `invalid_state` when what is there cannot be read
 */
export async function openCertificates(stateDir: string, domain: string, nowMs: number): Promise<DomainCertificates> {
  const files = certificateFiles(stateDir, domain);
  const folder = join(stateDir, "tls", domain);
  for (const each of [stateDir, join(stateDir, "tls"), folder]) await mkdir(each, { recursive: true, mode: 0o700 });
  await chmod(folder, 0o700);
  const known = await readPair(folder, "authority", nowMs);
  const authority = known ?? (await makeAuthority(domain, nowMs));
  if (!known) await writePair(folder, "authority", authority);
  const valid = known && (await readPair(folder, "server", nowMs));
  const server = valid ?? (await makeServerCertificate(authority, domain, nowMs));
  if (!valid) await writePair(folder, "server", server);
  await replaceFile(files.bundle, `${await readSystemBundle()}\n${authority.certificate}\n`, 0o644);
  return { server, serverEndMs: certificateEndMs(server.certificate), files, isNewAuthority: !known };
}

/** Undefined when there is none, or it ends soon. */
async function readPair(folder: string, name: string, nowMs: number): Promise<KeyAndCertificate | undefined> {
  try {
    const [key, certificate] = await Promise.all([
      readFile(join(folder, `${name}-key.pem`), "utf8"),
      readFile(join(folder, `${name}.pem`), "utf8"),
    ]);
    return certificateEndMs(certificate) - nowMs > renewBeforeMs ? { key, certificate } : undefined;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    const problem = `${folder}/${name}.pem cannot be read: ${messageOf(error)}. Delete the folder; it is made again.`;
    throw new DomainError("invalid_state", problem, {}, { cause: error });
  }
}

/** The key first: a certificate is never there without its key. */
async function writePair(folder: string, name: string, { key, certificate }: KeyAndCertificate): Promise<void> {
  await replaceFile(join(folder, `${name}-key.pem`), `${key}\n`, 0o600);
  await replaceFile(join(folder, `${name}.pem`), `${certificate}\n`, 0o644);
}

async function replaceFile(path: string, content: string, mode: number): Promise<void> {
  const unfinished = `${path}.${process.pid}`;
  await writeFile(unfinished, content, { mode });
  await rename(unfinished, path);
}

async function readSystemBundle(): Promise<string> {
  for (const path of systemBundles) {
    const content = await readFile(path, "utf8").catch(() => undefined);
    if (content !== undefined) return content;
  }
  return "";
}
