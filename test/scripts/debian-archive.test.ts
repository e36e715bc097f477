/** Debian's packages without Debian's tools: the fields and the signature of an index, and the order of versions. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { createCleartextMessage, generateKey, sign } from "openpgp";
import { expect, test } from "vitest";
import {
  parseIndex,
  requiredPackages,
  signedText,
  unexpired,
  withDependencies,
} from "../../scripts/setup/debian-archive.mjs";
import { compareVersions } from "../../scripts/setup/debian-version.mjs";
import { download } from "../../scripts/setup/downloads.mjs";
import { hashOf } from "../../scripts/setup/files.mjs";

const index = `Package: shell
Version: 1:5.2-1+b1
Essential: yes
Depends: libc (>= 2.36), awk
Description: a shell
 Depends: nothing, this is text
Filename: pool/s/shell.deb
SHA256: aa

Package: libc
Version: 2.36-9
Depends: base
Filename: pool/l/libc.deb
SHA256: bb

Package: base
Version: 12
Pre-Depends: awk
Depends: libc
Filename: pool/b/base.deb
SHA256: cc

Package: gawk
Version: 5
Provides: awk (= 1)
Filename: pool/g/gawk.deb
SHA256: dd

Package: mawk
Version: 1
Priority: required
Provides: awk
Filename: pool/m/mawk.deb
SHA256: ee

Package: app
Version: 3
Depends: missing-one | shell:any, nothing-else | gawk
Filename: pool/a/app.deb
SHA256: ff
`;

const archive = new Map(parseIndex(index, "https://debian.test").map((found) => [found.name, found]));
const names = (...wanted: string[]) => withDependencies(archive, wanted).map(({ name }) => name);

test("the needs of packages come before them, circles included, by the wanted or else the first alternative", () => {
  expect(requiredPackages(archive)).toEqual(["shell", "mawk"]);
  expect(names("shell", "mawk")).toEqual(["mawk", "base", "libc", "shell"]);
  expect(names("base")).toEqual(["gawk", "libc", "base"]);
  expect(names("app")).toEqual(["gawk", "base", "libc", "shell", "app"]);
  expect(withDependencies(archive, ["mawk"])).toEqual([
    { name: "mawk", version: "1", url: "https://debian.test/pool/m/mawk.deb", sha256: "ee" },
  ]);
  expect(() => names("nobody")).toThrow("Debian has no package nobody");
});

test("a message counts as Debian's only if one of Debian's keys has signed it unchanged", async () => {
  const { privateKey } = await generateKey({ userIDs: [{ name: "Debian" }], format: "object" });
  const message = await createCleartextMessage({ text: "SHA256:\n" });
  const forged = await sign({ message, signingKeys: privateKey });
  await expect(signedText(forged)).rejects.toThrow(/not signed by Debian/);
  await expect(signedText("SHA256:\n")).rejects.toThrow(/not signed by Debian/);
});

const release = readFileSync(new URL("../corpus/debian/InRelease", import.meta.url), "utf8");

test("a release file of Debian is read, and refused when one byte of it is changed", async () => {
  expect(await signedText(release)).toContain("Codename: bookworm-security");
  await expect(signedText(release.replace("bookworm-security", "bookworm-Security"))).rejects.toThrow(/not signed/);
});

test("a release file is valid until the date that it names", () => {
  const text = "Valid-Until: Wed, 02 Dec 2026 02:22:30 UTC\n";
  const end = Date.UTC(2026, 11, 2, 2, 22, 30);
  expect(unexpired(text, end)).toBe(text);
  expect(() => unexpired(text, end + 1)).toThrow(/valid until Wed, 02 Dec 2026/);
  expect(unexpired("Codename: bookworm\n", end + 1)).toBe("Codename: bookworm\n");
});

test("versions are ordered as dpkg orders them", () => {
  const version = fc.stringMatching(/^([0-2]:)?[0-9][0-9a-bA.+~]{0,4}(-[0-9a-b.+~]{1,3})?$/);
  const order = { lt: -1, eq: 0, gt: 1 };
  const check = (a: string, b: string) => {
    const relation = Object.entries(order).find(([, sign]) => sign === Math.sign(compareVersions(a, b)))?.[0] ?? "";
    expect(spawnSync("dpkg", ["--compare-versions", a, relation, b]).status, `${a} ${relation} ${b}`).toBe(0);
  };
  fc.assert(fc.property(version, version, check), { numRuns: 60 });
  for (const [a, b] of [
    ["1.0~rc1", "1.0"],
    ["1.0", "1.0+b1"],
    ["1:0", "9"],
    ["1.10", "1.9"],
    ["1", "1-0"],
  ] as const)
    check(a, b);
});

test("a download has its checksum, or is not kept", async () => {
  const folder = mkdtempSync(join(tmpdir(), "fk-"));
  const asked: string[] = [];
  const server = createServer((request, response) => {
    asked.push(request.url ?? "");
    response.end("bytes");
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const context = { signal: new AbortController().signal, onLine: () => {} };
  try {
    writeFileSync(join(folder, "same"), "bytes");
    const sha256 = hashOf(readFileSync(join(folder, "same")));
    const [path = ""] = await download([{ url: `${base}/a.deb`, sha256 }], folder, context);
    expect(readFileSync(path, "utf8")).toBe("bytes");
    await download([{ url: `${base}/a.deb`, sha256 }], folder, context);
    expect(asked).toEqual(["/a.deb"]);
    const other = { url: `${base}/b.deb`, sha256: "0".repeat(64) };
    await expect(download([other], folder, context)).rejects.toThrow(/not the file that Debian's index names/);
    expect(() => readFileSync(join(folder, "b.deb"))).toThrow(/ENOENT/);
  } finally {
    server.close();
    rmSync(folder, { recursive: true });
  }
});
