/** Certificates as OpenSSL judges them, through Node's own TLS. */
import { X509Certificate } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect, createServer } from "node:tls";
import { afterAll, beforeAll, expect, test } from "vitest";
import { makeAuthority, makeServerCertificate } from "../../src/tls/certificates.ts";
import { openCertificates } from "../../src/tls/store.ts";

const domain = "firkin.test";
const dayMs = 86_400_000;
let stateDir: string;
beforeAll(async () => {
  stateDir = await mkdtemp(join(tmpdir(), "firkin-tls-"));
});
afterAll(() => rm(stateDir, { recursive: true }));

/** What a client of `name` that trusts `ca` says of a server with this certificate. */
async function verdict(pair: { key: string; certificate: string }, ca: string, name: string): Promise<string> {
  const server = createServer({ key: pair.key, cert: pair.certificate }, (socket) => socket.end());
  server.on("tlsClientError", () => {});
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const socket = connect({ port: (server.address() as AddressInfo).port, host: "127.0.0.1", ca, servername: name });
  try {
    await once(socket, "secureConnect");
    return "trusted";
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    // Node has no word of its own for some of OpenSSL's.
    return code === undefined || code === "UNSPECIFIED" ? message : code;
  } finally {
    socket.destroy();
    server.close();
  }
}

test("a client that trusts the authority trusts the names of the domain, and no others", async () => {
  const authority = await makeAuthority(domain, Date.now());
  const server = await makeServerCertificate(authority, domain, Date.now());
  const judge = (name: string, pair = server) => verdict(pair, authority.certificate, name);
  for (const name of [domain, `api.${domain}`, `49983-iaa1.${domain}`]) expect(await judge(name)).toBe("trusted");
  expect(await judge(`a.b.${domain}`)).toBe("ERR_TLS_CERT_ALTNAME_INVALID");
  expect(await judge("firkin.example")).toBe("ERR_TLS_CERT_ALTNAME_INVALID");
  // With the authority's key in hand, too.
  for (const other of ["example.com", `not${domain}`]) {
    const forged = await makeServerCertificate(authority, other, Date.now());
    expect(await judge(other, forged)).toBe("permitted subtree violation");
  }
  const stranger = await makeAuthority(domain, Date.now());
  expect(await judge(domain, await makeServerCertificate(stranger, domain, Date.now()))).not.toBe("trusted");
});

test("the authority is for servers only, and its certificates are no authorities", async () => {
  const authority = await makeAuthority(domain, Date.now());
  const server = await makeServerCertificate(authority, domain, Date.now());
  const [root, leaf] = [new X509Certificate(authority.certificate), new X509Certificate(server.certificate)];
  expect([root.ca, leaf.ca]).toEqual([true, false]);
  expect(root.keyUsage).toEqual(["1.3.6.1.5.5.7.3.1"]);
  expect(leaf.subjectAltName).toBe(`DNS:${domain}, DNS:*.${domain}`);
  expect(leaf.checkIssued(root)).toBe(true);
  const lifetimeMs = Date.parse(leaf.validTo) - Date.parse(leaf.validFrom);
  expect(lifetimeMs).toBeLessThan(398 * dayMs);
});

test("files are made once, for their owner; the server's certificate is renewed in time, the authority stays", async () => {
  const nowMs = Date.now();
  const first = await openCertificates(stateDir, domain, nowMs);
  expect(first.isNewAuthority).toBe(true);
  const folder = join(stateDir, "tls", domain);
  expect((await readdir(folder)).sort()).toEqual([
    "authority-key.pem",
    "authority.pem",
    "bundle.pem",
    "server-key.pem",
    "server.pem",
  ]);
  const modeOf = async (name: string) => ((await stat(join(folder, name))).mode & 0o777).toString(8);
  expect([await modeOf("authority-key.pem"), await modeOf("server-key.pem"), await modeOf(".")]).toEqual([
    ...["600", "600"],
    "700",
  ]);
  const authority = await readFile(first.files.authority, "utf8");
  expect(await readFile(first.files.bundle, "utf8")).toContain(authority.trim());

  const again = await openCertificates(stateDir, domain, nowMs + 40 * dayMs);
  expect(again.server).toEqual({ key: expect.any(String), certificate: expect.any(String) });
  expect(again.serverEndMs).toBe(first.serverEndMs);
  const renewed = await openCertificates(stateDir, domain, nowMs + 61 * dayMs);
  expect(renewed.serverEndMs).toBeGreaterThan(first.serverEndMs);
  expect(renewed.isNewAuthority).toBe(false);
  expect(await readFile(first.files.authority, "utf8")).toBe(authority);
  const muchLater = await openCertificates(stateDir, domain, nowMs + 3640 * dayMs);
  expect(muchLater.isNewAuthority).toBe(true);
});

test("another domain has another authority, and a damaged file is named", async () => {
  const other = await openCertificates(stateDir, "other.test", Date.now());
  expect(other.isNewAuthority).toBe(true);
  await writeFile(other.files.authority, "nonsense");
  await expect(openCertificates(stateDir, "other.test", Date.now())).rejects.toMatchObject({
    code: "invalid_state",
    message: expect.stringContaining("authority.pem cannot be read"),
  });
});
