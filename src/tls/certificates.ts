/**
 * Certificates: an authority of this machine's own, and the certificate that it gives the daemon. A program that
 * trusts the authority trusts it with one domain only, because its certificate permits servers of that domain and no
 * address.
 */
import "./reflect-metadata.ts";
import type { webcrypto } from "node:crypto";
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  Extension,
  KeyUsageFlags,
  KeyUsagesExtension,
  PemConverter,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from "@peculiar/x509";

/** A private key and its certificate, as PEM. */
export interface KeyAndCertificate {
  readonly key: string;
  readonly certificate: string;
}

const dayMs = 86_400_000;
const authorityDays = 3650;
/** Apple refuses more than 825 days. The daemon makes a new certificate long before this one ends. */
const serverDays = 90;
/** Certificates begin in the past, because clocks of clients may be behind. */
const backdatedMs = dayMs;
const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
const nameConstraintsId = "2.5.29.30";

/** A new authority for `domain` and everything below it. */
export async function makeAuthority(domain: string, nowMs: number): Promise<KeyAndCertificate> {
  const keys = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const certificate = await X509CertificateGenerator.createSelfSigned({
    name: `CN=firkin authority for ${domain}`,
    ...validity(nowMs, authorityDays),
    signingAlgorithm: algorithm,
    keys,
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth]),
      new Extension(nameConstraintsId, true, nameConstraints(domain)),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { key: await keyToPem(keys.privateKey), certificate: certificate.toString("pem") };
}

/** A certificate for `domain` and every name of one label below it. */
export async function makeServerCertificate(
  authority: KeyAndCertificate,
  domain: string,
  nowMs: number,
): Promise<KeyAndCertificate> {
  const issuer = new X509Certificate(authority.certificate);
  const keys = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const certificate = await X509CertificateGenerator.create({
    subject: `CN=*.${domain}`.slice(0, 64 + 3),
    issuer: issuer.subjectName,
    ...validity(nowMs, serverDays),
    signingAlgorithm: algorithm,
    publicKey: keys.publicKey,
    signingKey: await keyFromPem(authority.key),
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth]),
      new SubjectAlternativeNameExtension([domain, `*.${domain}`].map((value) => ({ type: "dns", value }))),
      await AuthorityKeyIdentifierExtension.create(issuer),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { key: await keyToPem(keys.privateKey), certificate: certificate.toString("pem") };
}

/** The end of a certificate, ms since the epoch. @throws Error when the text is no certificate */
export function certificateEndMs(pem: string): number {
  return new X509Certificate(pem).notAfter.getTime();
}

function validity(nowMs: number, days: number): { notBefore: Date; notAfter: Date } {
  return { notBefore: new Date(nowMs - backdatedMs), notAfter: new Date(nowMs + days * dayMs) };
}

async function keyToPem(key: webcrypto.CryptoKey): Promise<string> {
  return PemConverter.encode(await crypto.subtle.exportKey("pkcs8", key), PemConverter.PrivateKeyTag);
}

function keyFromPem(pem: string): Promise<webcrypto.CryptoKey> {
  const der = PemConverter.decodeFirst(pem);
  return crypto.subtle.importKey("pkcs8", der, algorithm, false, ["sign"]);
}

/** RFC 5280, 4.2.1.10: names at and below `domain` are permitted, and every IP address is excluded. */
function nameConstraints(domain: string): ArrayBuffer {
  const [sequence, permitted, excluded, dnsName, ipAddress] = [0x30, 0xa0, 0xa1, 0x82, 0x87];
  const subtree = (kind: number, value: Uint8Array) => der(sequence, der(kind, value));
  // An address and a mask of zeros stand for every address.
  const anyAddress = [8, 32].map((length) => subtree(ipAddress, new Uint8Array(length)));
  const bytes = der(
    sequence,
    der(permitted, subtree(dnsName, Buffer.from(domain))),
    der(excluded, Buffer.concat(anyAddress)),
  );
  return new Uint8Array(bytes).buffer;
}

/** One value with its tag and its length, which is below 65,536. */
function der(tag: number, ...content: readonly Uint8Array[]): Buffer {
  const value = Buffer.concat(content);
  const { length } = value;
  const head = length < 128 ? [tag, length] : [tag, 0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from(head), value]);
}
