/** The host's authorities and proxy, as the settings say. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { rootCertificates } from "node:tls";
import { afterAll, expect, test } from "vitest";
import { certificatesIn, fingerprintOf, noTrust, readHostTrust } from "../../../src/template/trust/host-trust.ts";

const folder = mkdtempSync(join(tmpdir(), "firkin-trust-"));
afterAll(() => rmSync(folder, { recursive: true }));

const [first = "", second = ""] = rootCertificates;
const file = (name: string, content: string) => {
  writeFileSync(join(folder, name), content);
  return join(folder, name);
};
const read = (guestCa: string, guestProxy = "none", env: NodeJS.ProcessEnv = {}) =>
  readHostTrust({ guestCa, guestProxy }, env);

test("the certificates of a file are found between other text, each once", async () => {
  const path = file("two.pem", `# a comment\n${first}\nkey: x\n${second.replaceAll("\n", "\r\n")}\n${first}`);
  expect((await read(path)).authorities).toEqual(certificatesIn(`${first}\n${second}`));
  expect((await read(path)).authorities).toHaveLength(2);
});

test("auto takes what variables name for programs of this user, too", async () => {
  const own = await read("auto", "none", { NODE_EXTRA_CA_CERTS: file("extra.pem", first) });
  expect(own.authorities).toEqual(expect.arrayContaining(certificatesIn(first)));
  await expect(read("auto", "none", { SSL_CERT_FILE: join(folder, "missing.pem") })).resolves.toBeDefined();
});

test("a file without certificates, with something else, or that is missing is refused by the name of the setting", async () => {
  const broken = first.replace(/\n.{20}/, "\n!!!!");
  for (const path of [file("empty.pem", "nothing"), file("broken.pem", broken), join(folder, "missing"), folder]) {
    await expect(read(path)).rejects.toThrow(/wrong settings:\n {2}--guest-ca: /);
  }
});

test("a proxy is given in both spellings, with what is reached without it", async () => {
  expect((await read("none", "http://proxy.example:3128")).proxyVariables).toEqual({
    http_proxy: "http://proxy.example:3128",
    HTTP_PROXY: "http://proxy.example:3128",
    https_proxy: "http://proxy.example:3128",
    HTTPS_PROXY: "http://proxy.example:3128",
    no_proxy: "localhost,127.0.0.1,::1",
    NO_PROXY: "localhost,127.0.0.1,::1",
  });
  const env = { HTTPS_PROXY: "http://p.example", no_proxy: "localhost,.example" };
  expect((await read("none", "auto", env)).proxyVariables).toEqual({
    https_proxy: "http://p.example",
    HTTPS_PROXY: "http://p.example",
    no_proxy: "localhost,127.0.0.1,::1,.example",
    NO_PROXY: "localhost,127.0.0.1,::1,.example",
  });
  expect(await read("none", "auto", {})).toEqual(noTrust);
});

test.each([
  "proxy:3128",
  "socks5://proxy",
  "http://127.0.0.1:3128",
  "http://localhost",
  "http://[::1]:1",
  "http://a'b",
])("a proxy that no guest can use is refused: %s", async (url) => {
  await expect(read("none", url)).rejects.toThrow(/--guest-proxy: /);
  await expect(read("none", "auto", { http_proxy: url })).rejects.toThrow(/--guest-proxy: /);
});

test("equal trust has an equal fingerprint, and none has an empty one", async () => {
  const [one, other] = [await read(file("a.pem", first + second)), await read(file("b.pem", second + first))];
  expect(fingerprintOf(one)).toBe(fingerprintOf(other));
  expect(fingerprintOf(one)).not.toBe(fingerprintOf({ ...one, proxyVariables: { http_proxy: "http://p" } }));
  expect(fingerprintOf(noTrust)).toBe("");
});
