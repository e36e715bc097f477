/**
 * What the SDKs need and an image may lack, from files of the host: an account, a shell, certificate authorities, the
 * files that every guest gets. What an image has is left as it is, with the exceptions that a sandbox cannot do without.
 */
import { DomainError } from "../../errors.ts";
import { loginPathFile, loginPathScript } from "../login-path.ts";
import type { BlockFile } from "./block-file.ts";
import { addAccounts } from "./gap-accounts.ts";
import { folder, link, placeFile } from "./gap-files.ts";
import type { Inode, Tree } from "./tree.ts";

/** Paths of files on this host, and texts. */
export interface GapFiles {
  /** Static programs; undefined where set-up made none. */
  readonly bash: Program | undefined;
  readonly busybox: (Program & { readonly applets: readonly string[] }) | undefined;
  /** Certificate authorities, PEM. */
  readonly authorities: string;
}

export interface Program {
  readonly content: Buffer;
}

export interface GapWork {
  readonly tree: Tree;
  readonly disk: BlockFile;
  readonly envs: Readonly<Record<string, string>>;
  readonly files: GapFiles;
}

/** Where distributions and programs look for the bundle of authorities. The first is where ours goes. */
const bundles = [
  "etc/ssl/certs/ca-certificates.crt",
  "etc/pki/tls/certs/ca-bundle.crt",
  "etc/ssl/cert.pem",
  "etc/ssl/ca-bundle.pem",
] as const;
const folders = [
  ...["bin", "dev", "etc", "etc/profile.d", "home", "opt", "proc", "root", "run", "sys", "usr", "usr/local", "var"],
  ...["usr/local/bin", "var/lib", "var/log"],
] as const;

/**
 * Adds what is missing.
 * @returns a word for each thing that was added, for the log of the build
 * @throws DomainError `unsupported` when the image has no bash and set-up made none
 */
export function fillGaps(work: GapWork): string[] {
  const { tree } = work;
  for (const path of folders) if (!tree.lookup(path)) tree.place(path, folder(path === "root" ? 0o700 : 0o755));
  for (const path of ["tmp", "var/tmp"]) if (!tree.lookup(path)) tree.place(path, folder(0o1777));
  const filled = [...addShells(work), ...addAuthorities(work)];
  addNetworkFiles(work);
  filled.push(...addAccounts(work));
  keepPath(work);
  openLocal(tree);
  return filled;
}

function addShells({ tree, disk, files }: GapWork): string[] {
  const filled: string[] = [];
  if (!tree.lookup("bin/bash")) {
    if (!files.bash) throw noShell();
    placeFile({ tree, disk }, "bin/bash", files.bash.content, 0o755);
    filled.push("bash");
  }
  if (!tree.lookup("bin/sh") && files.busybox) {
    placeFile({ tree, disk }, "bin/busybox", files.busybox.content, 0o755);
    const bins = ["bin", "sbin", "usr/bin", "usr/sbin"];
    for (const applet of files.busybox.applets.filter((name) => /^[a-z0-9_[\]-]+$/i.test(name))) {
      if (!bins.some((bin) => tree.lookup(`${bin}/${applet}`))) tree.place(`bin/${applet}`, link("busybox"));
    }
    filled.push("sh and the programs of busybox");
  }
  return filled;
}

function addAuthorities({ tree, disk, files }: GapWork): string[] {
  if (files.authorities === "") return [];
  const there = bundles.find((path) => tree.lookup(path));
  const bundle = there ?? bundles[0];
  if (!there) placeFile({ tree, disk }, bundle, Buffer.from(files.authorities), 0o644);
  for (const path of bundles) {
    if (tree.lookup(path)) continue;
    // A link that leads nowhere would stay in the way.
    tree.remove(path);
    tree.place(path, link(`/${bundle}`));
  }
  return there ? [] : ["certificate authorities"];
}

function noShell(): DomainError {
  const message = "the image has no /bin/bash, and the set-up has made none to put there: run npx firkin setup";
  return new DomainError("unsupported", message);
}

/** Name servers and names are the machine's affair, whatever the image was built beside. */
function addNetworkFiles({ tree, disk }: GapWork): void {
  const files = {
    "etc/resolv.conf": "",
    "etc/hostname": "firkin\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
    "etc/machine-id": "",
  };
  for (const [path, text] of Object.entries(files)) {
    tree.remove(path);
    placeFile({ tree, disk }, path, Buffer.from(text), 0o644);
  }
}

function keepPath({ tree, disk, envs }: GapWork): void {
  const { PATH: path } = envs;
  if (path) placeFile({ tree, disk }, loginPathFile.slice(1), Buffer.from(loginPathScript(path)), 0o644);
}

/** As on `base`: the default user installs programs under /usr/local, and /code is for everybody. */
function openLocal(tree: Tree): void {
  const open: (Inode | undefined)[] = [tree.lookup("usr/local")];
  for (let at = 0; at < open.length; at++) {
    const inode = open[at];
    if (!inode || inode.kind === "symlink") continue;
    const isProgram = inode.kind === "directory" || (inode.mode & 0o111) !== 0;
    inode.mode |= isProgram ? 0o777 : 0o666;
    if (inode.kind === "directory") for (const { inode: child } of inode.children.values()) open.push(child);
  }
  if (!tree.lookup("code")) tree.place("code", folder(0o777));
}
