/**
 * The certificate store: the certificates of a domain, in files below the state folder. They are made when they are
 * missing and again before they end. Only the owner may read the keys. Each domain has an authority of its own,
 * because an authority is permitted one domain.
 */
import { chmod, mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { DomainError, messageOf } from "../errors.ts";
import { certificateEndMs, type KeyAndCertificate, makeAuthority, makeServerCertificate } from "./certificates.ts";

export interface DomainCertificates {
  readonly server: KeyAndCertificate;
  /** The end of the server's certificate, ms since the epoch. */
  readonly serverEndMs: number;
  readonly files: CertificateFiles;
  /** The authority was made just now, so programs that trusted an earlier one must trust this one. */
  readonly isNewAuthority: boolean;
}

export interface CertificateFiles {
  /** The file with the authority alone, for Node.js and the system's store. */
  readonly authority: string;
  /**
   * The file with the authority and every authority of the system, for OpenSSL and Python, which replace the system's
   * list.
   */
  readonly bundle: string;
}

/** A certificate, of the server or the authority, is made again when it has less than this left. */
const renewBeforeMs = 30 * 86_400_000;
/** The files in which systems keep the authorities that they trust. */
const systemBundles = [
  "/etc/ssl/certs/ca-certificates.crt",
  "/etc/pki/tls/certs/ca-bundle.crt",
  "/etc/ssl/ca-bundle.pem",
  "/etc/ssl/cert.pem",
];

/** The paths of a domain's certificates, which need not exist yet. */
function certificateFiles(stateDir: string, domain: string): CertificateFiles {
  const folder = join(stateDir, "tls", domain);
  return { authority: join(folder, "authority.pem"), bundle: join(folder, "bundle.pem") };
}

/**
 * Reads the certificates of a domain, and makes those that are missing or end soon.
 * @throws DomainError `invalid_state` when a file cannot be read
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

/** A key and its certificate; undefined when there is none, or it ends soon. */
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

/** Writes the key first, so that no certificate is there without its key. */
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
