/** Images that stand for the families of distributions: what each of them has, and lacks, that matters to a sandbox. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { cacheDir } from "../daemon/real-daemon.ts";
import { makeImage, type TestImage } from "./make-image.ts";
import type { TarFile } from "./tar.ts";

/** A root of Debian with Python and sudo, which the set-up of the tests made; undefined where it did not. */
function debianRoot(): Buffer | undefined {
  const path = join(cacheDir(), "assets", "test-images", "debian.tar");
  try {
    return readFileSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

export const families = ["debian", "ubuntu", "fedora", "alpine", "distroless", "scratch"] as const;
export type Family = (typeof families)[number];

/** The image of a family; a sentence when this host cannot make it. */
export function imageOf(family: Family): TestImage | string {
  switch (family) {
    case "debian":
    case "ubuntu":
    case "fedora": {
      const root = debianRoot();
      const change = { debian: [], ubuntu: [release("ubuntu")], fedora: fedoraChanges }[family];
      const packed = { pack: (tar: Buffer) => tar, layerType: "application/vnd.oci.image.layer.v1.tar" };
      return root ? makeImage({ layers: [root, change], ...packed }) : "the set-up made no root of Debian";
    }
    case "alpine": {
      const libc = muslLibc();
      if (!libc) return "there is no musl-cc on PATH";
      const files = [
        { path: "lib/ld-musl-x86_64.so.1", content: readFileSync(libc), mode: 0o755 },
        { path: "bin/greet", content: compiled("musl-cc", []), mode: 0o755 },
      ];
      return makeImage({ layers: [busyboxLayer(), files], config: { Env: ["PATH=/bin"] } });
    }
    case "distroless":
      return makeImage({ layers: [distrolessRoot()], config: { Env: ["PATH=/app"], User: "65532" } });
    case "scratch":
      return makeImage({ layers: [[{ path: "greet", content: compiled("gcc", ["-static"]), mode: 0o755 }]] });
    default:
      return family satisfies never;
  }
}

const release = (id: string): TarFile => ({ path: "usr/lib/os-release", content: `ID=${id}\nPRETTY_NAME="${id}"\n` });

/** No apt and no sudo; the authorities where Fedora has them, and nowhere else. */
const fedoraChanges: readonly TarFile[] = [
  release("fedora"),
  ...[
    "usr/bin/apt",
    "usr/bin/apt-get",
    "usr/bin/dpkg",
    "usr/bin/sudo",
    "etc/sudoers",
    "etc/sudoers.d",
    "etc/ssl/certs",
  ].map((path) => ({ path: path.replace(/([^/]+)$/, ".wh.$1") })),
  { path: "etc/pki/ca-trust/source/anchors/" },
  { path: "etc/pki/tls/certs/ca-bundle.crt", content: "# no authority is trusted here\n" },
];

/** A root as Alpine's: busybox under every name, and no bash. */
export function busyboxLayer(): TarFile[] {
  const { busybox, applets } = JSON.parse(readFileSync(join(cacheDir(), "assets", "programs.json"), "utf8")) as {
    busybox: string;
    applets: string[];
  };
  return [
    { path: "etc/os-release", content: "ID=alpine\n" },
    { path: "etc/passwd", content: "root:x:0:0:root:/root:/bin/sh\n" },
    { path: "etc/group", content: "root:x:0:root\n" },
    { path: "etc/shadow", content: "root:*::0:::::\n", mode: 0o640 },
    { path: "etc/profile", content: "export PATH=/bin\nfor each in /etc/profile.d/*.sh; do . $each; done\n" },
    { path: "etc/profile.d/" },
    { path: "bin/busybox", content: readFileSync(busybox), mode: 0o755 },
    ...applets
      .filter((name) => name !== "busybox")
      .map((name) => ({ path: `bin/${name}`, type: "2", target: "/bin/busybox" })),
  ];
}

/** One program with what it is linked to: no shell, no account but its own. */
function distrolessRoot(): TarFile[] {
  const program = compiled("gcc", []);
  const libraries = ["/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6"];
  return [
    { path: "etc/os-release", content: "ID=debian\nPRETTY_NAME=Distroless\n" },
    {
      path: "etc/passwd",
      content: "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532::/home/nonroot:/sbin/nologin\n",
    },
    { path: "home/nonroot/", uid: 65532, gid: 65532, mode: 0o700 },
    { path: "app/greet", content: program, mode: 0o755 },
    ...libraries.map((path) => ({ path: path.slice(1), content: readFileSync(path), mode: 0o755 })),
  ];
}

function muslLibc(): string | undefined {
  try {
    return execFileSync("musl-cc", ["-print-file-name=libc.so"]).toString().trim();
  } catch {
    return undefined;
  }
}

/** A program that says hello and who runs it. */
const source = `#include <stdio.h>
#include <unistd.h>
int main(void) { printf("greetings from %d\\n", (int)getuid()); return 0; }
`;

function compiled(compiler: string, options: readonly string[]): Buffer {
  const folder = mkdtempSync(join(tmpdir(), "firkin-greet-"));
  try {
    writeFileSync(join(folder, "greet.c"), source);
    execFileSync(compiler, [...options, "-o", join(folder, "greet"), join(folder, "greet.c")]);
    return readFileSync(join(folder, "greet"));
  } finally {
    rmSync(folder, { recursive: true });
  }
}
