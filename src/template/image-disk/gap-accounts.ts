/** The account `user` in the files of an image: as on `base`, without a password and with every right where there is sudo. */
import { folder, type GapPlace, placeFile } from "./gap-files.ts";
import type { Inode } from "./tree.ts";

const name = "user";
const firstId = 1000;
/** An account book that is larger is not touched. */
const maxBookBytes = 4 * 2 ** 20;
const maxSkeletonBytes = 2 ** 20;

/** Adds `root` and `user` where they are missing. @returns what was added */
export function addAccounts(work: GapPlace): string[] {
  const { tree } = work;
  const filled: string[] = [];
  const passwd = linesOf(work, "etc/passwd");
  const group = linesOf(work, "etc/group");
  const shadow = tree.lookup("etc/shadow") ? linesOf(work, "etc/shadow") : undefined;
  if (!has(passwd, "root")) passwd.unshift("root:x:0:0:root:/root:/bin/bash");
  if (!has(group, "root")) group.unshift("root:x:0:");
  const known = passwd.find((line) => line.startsWith(`${name}:`))?.split(":");
  const id = known ? Number(known[2]) : freeId(passwd, group);
  const home = known?.[5] || `/home/${name}`;
  if (!known) {
    passwd.push(`${name}:x:${id}:${id}::${home}:/bin/bash`);
    if (!has(group, name)) group.push(`${name}:x:${id}:`);
    filled.push(`the account ${name}, ${id}`);
  }
  join(group, tree.lookup("etc/sudoers") ? ["sudo", "wheel"] : []);
  // Without a password, su and sudo ask for none.
  if (shadow) for (const account of ["root", name]) openAccount(shadow, account);
  write(work, "etc/passwd", passwd, 0o644);
  write(work, "etc/group", group, 0o644);
  if (shadow) write(work, "etc/shadow", shadow, 0o640);
  makeHome(work, home, { uid: id, gid: known ? Number(known[3]) : id });
  if (tree.lookup("usr/bin/sudo") || tree.lookup("bin/sudo")) {
    placeFile(work, "etc/sudoers.d/user", Buffer.from(sudoRights), 0o440);
  }
  return filled;
}

const sudoRights = `${name} ALL=(ALL:ALL) NOPASSWD: ALL
Defaults env_keep += "http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY"
Defaults env_keep += "SSL_CERT_FILE REQUESTS_CA_BUNDLE NODE_EXTRA_CA_CERTS"
`;

const has = (lines: readonly string[], account: string) => lines.some((line) => line.startsWith(`${account}:`));

/** The lines of an account book; none when it is missing. */
function linesOf({ tree, disk }: GapPlace, path: string): string[] {
  const inode = tree.lookup(path);
  if (inode?.kind !== "file" || inode.sizeBytes > maxBookBytes) return [];
  return disk
    .read(inode.runs, inode.sizeBytes)
    .toString("latin1")
    .split("\n")
    .filter((line) => line !== "");
}

function write(work: GapPlace, path: string, lines: readonly string[], mode: number): void {
  const there = work.tree.lookup(path);
  const content = Buffer.from(`${lines.join("\n")}\n`, "latin1");
  if (there?.kind !== "file") {
    work.tree.remove(path);
    placeFile(work, path, content, mode);
    return;
  }
  // In place, so that links to it lead to it still.
  there.runs = work.disk.store(content);
  there.sizeBytes = content.length;
}

/** The number that useradd would choose. */
function freeId(passwd: readonly string[], group: readonly string[]): number {
  const taken = new Set([...passwd, ...group].map((line) => Number(line.split(":")[2])));
  let id = firstId;
  while (taken.has(id)) id++;
  return id;
}

/** Makes `user` a member of those of the groups that there are. */
function join(group: string[], wanted: readonly string[]): void {
  for (const [index, line] of group.entries()) {
    const [title = "", secret = "", id = "", members = ""] = line.split(":");
    if (!wanted.includes(title) || members.split(",").includes(name)) continue;
    group[index] = [title, secret, id, members === "" ? name : `${members},${name}`].join(":");
  }
}

function openAccount(shadow: string[], account: string): void {
  const index = shadow.findIndex((line) => line.startsWith(`${account}:`));
  const [, , ...rest] = index < 0 ? [] : (shadow[index]?.split(":") ?? []);
  const line = index < 0 ? `${account}::::::::` : [account, "", ...rest].join(":");
  if (index < 0) shadow.push(line);
  else shadow[index] = line;
}

interface Owner {
  readonly uid: number;
  readonly gid: number;
}

/** The home of the account, with what the image wants new homes to have. */
function makeHome(work: GapPlace, home: string, owner: Owner): void {
  const { tree, disk } = work;
  const there = tree.lookup(home);
  if (there && there.kind !== "directory") return;
  if (!there) tree.place(home, folder(0o755));
  for (const entry of tree.list("etc/skel")) {
    const source = tree.peek(`etc/skel/${entry}`);
    const isSmallFile = source?.kind === "file" && source.sizeBytes <= maxSkeletonBytes;
    if (!isSmallFile || tree.peek(`${home}/${entry}`)) continue;
    placeFile(work, `${home}/${entry}`, disk.read(source.runs, source.sizeBytes), source.mode);
  }
  own(tree.lookup(home), owner);
}

/** As E2B does, everything in the home belongs to the account. */
function own(inode: Inode | undefined, { uid, gid }: Owner): void {
  const open = [inode];
  for (let at = 0; at < open.length; at++) {
    const each = open[at];
    if (!each) continue;
    Object.assign(each, { uid, gid });
    if (each.kind === "directory") for (const { inode: child } of each.children.values()) open.push(child);
  }
}
