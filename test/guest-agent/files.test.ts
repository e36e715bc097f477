/** Tests of file operations: reading, writing, looking, listing, moving, removing, joining. */
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { buildSanitized, startAgent } from "../support/guest/built-agent.ts";
import { type FieldPair, op, type RawFields, type RawLink, tag, WINDOW } from "../support/guest/raw-link.ts";

const isRoot = process.getuid?.() === 0;
let folder: string;
let link: RawLink;

beforeAll(() => {
  buildSanitized();
  folder = mkdtempSync(join(tmpdir(), "firkin-files-"));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

beforeEach(async () => {
  link = await startAgent();
});

afterEach(async () => {
  await link[Symbol.asyncDispose]();
});

const at = (name: string) => join(folder, name);

async function write(path: string, content: Uint8Array | string, more: readonly FieldPair[] = []) {
  const stream = link.open(op.write, [[tag.path, path], ...more]);
  const bytes = Buffer.from(content);
  let credited = 0;
  for (let sent = 0; sent < bytes.length; sent += 32_768) {
    while (sent + 32_768 - credited > WINDOW) credited += await stream.credit();
    stream.data(bytes.subarray(sent, sent + 32_768));
  }
  stream.end();
  return stream.collect();
}

const stat = (path: string, more: readonly FieldPair[] = []) => link.call(op.stat, [[tag.path, path], ...more]);
const entryOf = ({ fields }: { fields: RawFields }) => fields.groups(tag.entry)[0];

function attributesOf(entry: RawFields | undefined): Record<string, string> {
  return Object.fromEntries(
    (entry?.groups(tag.xattr) ?? []).map((attribute) => [attribute.text(tag.name), attribute.text(tag.value)]),
  );
}

/** Not every file system of a test machine has user attributes. */
function hasAttributes(): boolean {
  const path = at("attribute-probe");
  writeFileSync(path, "");
  try {
    execFileSync("python3", ["-c", "import os,sys; os.setxattr(sys.argv[1],'user.e2b.x',b'1')", path], {
      stdio: "pipe",
    });
    return true;
  } catch {
    return false;
  }
}

test("a file goes in and comes out, with parents made", async () => {
  for (const size of [0, 1, 32_768, 32_769, 3_000_000]) {
    const content = Buffer.alloc(size, "firkin");
    const path = at(`made/for/${size}`);
    const written = await write(path, content);
    expect(written.status).toBe("ok");
    const entry = entryOf(written);
    expect(entry?.text(tag.path)).toBe(path);
    expect(entry?.text(tag.name)).toBe(String(size));
    expect(entry?.int(tag.size)).toBe(size);
    expect(entry?.int(tag.kind)).toBe(1);
    expect(entry?.int(tag.mode)).toBe(0o644);
    expect(readFileSync(path).equals(content)).toBe(true);
    const { status, events, data } = await link.call(op.read, [[tag.path, path]]);
    expect(status).toBe("ok");
    expect(events.map(({ kind, fields }) => [kind, entryOf({ fields })?.int(tag.size)])).toEqual([[2, size]]);
    expect(data[0].equals(content)).toBe(true);
  }
  expect(statSync(at("made/for")).mode & 0o7777).toBe(0o755);
});

test("a file is truncated, keeps its inode, and gets the mode of the request", async () => {
  const path = at("again");
  await write(path, "long long content", [[tag.mode, 0o4711]]);
  const before = statSync(path);
  expect(before.mode & 0o7777).toBe(0o4711);
  await write(path, "short");
  expect(readFileSync(path, "utf8")).toBe("short");
  expect(statSync(path).ino).toBe(before.ino);
});

test("parts of a file are read", async () => {
  writeFileSync(at("parts"), "0123456789");
  const read = async (...more: FieldPair[]) =>
    (await link.call(op.read, [[tag.path, at("parts")], ...more])).data[0].toString();
  expect(await read([tag.offset, 3])).toBe("3456789");
  expect(await read([tag.offset, 3], [tag.length, 4])).toBe("3456");
  expect(await read([tag.length, 0])).toBe("");
  expect(await read([tag.offset, 100])).toBe("");
  const { status } = await link.call(op.read, [
    [tag.path, at("parts")],
    [tag.offset, -1],
  ]);
  expect(status).toBe("invalid_argument");
  expect((await link.call(op.read, [[tag.path, "/proc/version"]])).data[0].toString()).toContain("Linux");
});

test("a failed read or write tells its reason", async () => {
  mkdirSync(at("a folder"));
  execFileSync("mkfifo", [at("pipe")]);
  const read = (path: string) => link.call(op.read, [[tag.path, path]]);
  expect(await read(at("missing"))).toMatchObject({ status: "not_found" });
  expect((await read(at("missing"))).fields.int(tag.errno)).toBe(2);
  expect((await read(at("missing"))).fields.text(tag.path)).toBe(at("missing"));
  expect((await read(at("a folder"))).status).toBe("is_a_directory");
  expect((await read(at("pipe"))).status).toBe("invalid_argument");
  expect((await read("/dev/zero")).status).toBe("invalid_argument");
  expect((await read("/etc/passwd/x")).status).toBe("not_a_directory");
  expect((await write(at("a folder"), "x")).status).toBe("is_a_directory");
  expect((await write(at("pipe"), "x")).status).toBe("invalid_argument");
  expect((await write("/etc/passwd/x", "x")).status).toBe("not_a_directory");
  expect((await write("/dev/full", "x")).status).toBe("invalid_argument");
});

test("a cancelled write leaves the bytes that had come, and no descriptor", async () => {
  const stream = link.open(op.write, [[tag.path, at("cancelled")]]);
  stream.data("some");
  stream.reset();
  stream.data("thing");
  expect((await stream.collect()).status).toBe("cancelled");
  expect(readFileSync(at("cancelled"), "utf8")).toBe("some");
  expect((await link.shell(`ls -l /proc/${link.child.pid}/fd | grep -c cancelled`).collect()).stdout).toBe("0\n");
});

test("a full disk is no_space, early", async (context) => {
  const place = mkdtempSync(at("small-"));
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=64k", "tmpfs", place], { stdio: "pipe" });
  } catch {
    context.skip("no right to mount here");
  }
  try {
    const stream = link.open(op.write, [[tag.path, join(place, "big")]]);
    for (let i = 0; i < 4; i++) stream.data(Buffer.alloc(32_768));
    expect((await stream.collect()).status).toBe("no_space");
    stream.data("x");
    stream.end();
    expect((await link.call(op.ping)).status).toBe("ok");
  } finally {
    execFileSync("umount", [place]);
  }
});

test("attributes are written as a whole set, and listed", async (context) => {
  if (!hasAttributes()) context.skip("no user attributes on this file system");
  const attribute = (name: string, value: string): FieldPair => [
    tag.xattr,
    [
      [tag.name, name],
      [tag.value, value],
    ],
  ];
  const path = at("with-attributes");
  const first = await write(path, "x", [attribute("one", "1"), attribute("two", "zwei")]);
  expect(attributesOf(entryOf(first))).toEqual({ one: "1", two: "zwei" });
  const second = await write(path, "x", [attribute("three", "")]);
  expect(attributesOf(entryOf(second))).toEqual({ three: "" });
  expect(attributesOf(entryOf(await write(path, "x")))).toEqual({});
  expect((await write(path, "x", [attribute("", "1")])).status).toBe("invalid_argument");
  expect((await write(path, "x", [attribute("k".repeat(300), "1")])).status).toBe("invalid_argument");
});

test("entries tell files, folders, links, broken and cyclic links, and others", async () => {
  const place = at("kinds");
  mkdirSync(place);
  writeFileSync(join(place, "file"), "four");
  chmodSync(join(place, "file"), 0o640);
  utimesSync(join(place, "file"), 1_700_000_000.5, 1_700_000_000.5);
  symlinkSync("file", join(place, "link"));
  symlinkSync("link", join(place, "second"));
  symlinkSync("nowhere/at/all", join(place, "broken"));
  symlinkSync("cycle", join(place, "cycle"));
  symlinkSync(place, join(place, "folder-link"));
  const of = async (name: string) => {
    const entry = entryOf(await stat(join(place, name)));
    return {
      kind: entry?.int(tag.kind),
      size: entry?.int(tag.size),
      mode: entry?.int(tag.mode),
      target: entry?.text(tag.linkTarget),
      name: entry?.text(tag.name),
    };
  };
  const target = join(place, "file");
  expect(await of("file")).toEqual({ kind: 1, size: 4, mode: 0o640, target: undefined, name: "file" });
  expect(await of("link")).toEqual({ kind: 1, size: 4, mode: 0o640, target, name: "link" });
  expect(await of("second")).toEqual({ kind: 1, size: 4, mode: 0o640, target, name: "second" });
  expect(await of("broken")).toMatchObject({ kind: 0, target: "nowhere/at/all", mode: 0o777 });
  expect(await of("cycle")).toMatchObject({ kind: 0, target: "cycle" });
  expect(await of("folder-link")).toMatchObject({ kind: 2, target: place });
  expect(await of("file/..")).toMatchObject({ kind: 2, name: "kinds" });
  const entry = entryOf(await stat(target));
  expect(entry?.int(tag.modifiedNs)).toBe(1_700_000_000_500_000_000);
  expect(entry?.text(tag.path)).toBe(target);
  expect([entry?.text(tag.owner), entry?.text(tag.group)]).toEqual(isRoot ? ["root", "root"] : expect.anything());
  expect(entryOf(await stat("/dev/null"))?.int(tag.kind)).toBe(3);
  expect(entryOf(await stat("/"))?.text(tag.name)).toBe("/");
  expect((await stat(join(place, "missing"))).status).toBe("not_found");
  expect((await link.call(op.listDirectory, [[tag.path, join(place, "cycle")]])).status).toBe("failed_precondition");
});

test("paths are home, relative, default and cleaned, and never another user's home", async () => {
  const home = (await link.shell("echo $HOME").collect()).stdout.trim();
  const resolved = async (path: string) => entryOf(await stat(path))?.text(tag.path);
  expect(await resolved("~")).toBe(home);
  expect(await resolved("~/../etc")).toBe("/etc");
  expect(await resolved("/../..//usr/./bin/")).toBe("/usr/bin");
  expect(await resolved(`..${folder}`)).toBe(folder);
  expect(await resolved("")).toBe(home);
  await link.call(op.setup, [[tag.defaultCwd, folder]]);
  expect(await resolved("")).toBe(folder);
  expect(await stat("~daemon/x")).toMatchObject({ status: "invalid_argument" });
  expect(await stat("/", [[tag.user, "no-such-user"]])).toMatchObject({
    status: "unauthenticated",
    message: "invalid username: 'no-such-user'",
  });
});

test.runIf(isRoot)("what is made belongs to the user, and unknown owners are numbers", async () => {
  const asDaemon: FieldPair[] = [[tag.user, "daemon"]];
  await write(at("daemons/deep/file"), "x", asDaemon);
  for (const name of ["daemons", "daemons/deep", "daemons/deep/file"]) expect(statSync(at(name)).uid).toBe(1);
  await link.call(op.makeDirectory, [[tag.path, at("daemons/more/of/it")], ...asDaemon]);
  for (const name of ["daemons/more", "daemons/more/of/it"]) expect(statSync(at(name)).uid).toBe(1);
  execFileSync("chown", ["54321:54322", at("daemons/deep/file")]);
  const entry = entryOf(await stat(at("daemons/deep/file")));
  expect([entry?.text(tag.owner), entry?.text(tag.group)]).toEqual(["54321", "54322"]);
});

test("a folder is listed parents first, names by bytes, links not followed", async () => {
  const place = at("tree");
  for (const name of ["b", "b/x", "b/x/deep", "B", "a-"]) mkdirSync(join(place, name), { recursive: true });
  for (const name of ["b/x/1", "b/!", "ä", "a", "a-/in", "b.txt"]) writeFileSync(join(place, name), "");
  symlinkSync("b", join(place, "to-b"));
  symlinkSync("tree", at("to-tree"));
  const list = async (path: string, depth?: number) => {
    const more: FieldPair[] = depth === undefined ? [] : [[tag.depth, depth]];
    const { status, events } = await link.call(op.listDirectory, [[tag.path, path], ...more]);
    expect(status).toBe("ok");
    const entries = events.flatMap(({ kind, fields }) => (kind === 3 ? fields.groups(tag.entry) : []));
    return entries.map((entry) => entry.text(tag.path)?.slice(path.length + 1));
  };
  expect(await list(place)).toEqual(["B", "a", "a-", "b", "b.txt", "to-b", "ä"]);
  expect(await list(place, 2)).toEqual(["B", "a", "a-", "a-/in", "b", "b/!", "b/x", "b.txt", "to-b", "ä"]);
  expect(await list(at("to-tree"), 1_000_000)).toEqual([
    "B",
    "a",
    "a-",
    "a-/in",
    "b",
    "b/!",
    "b/x",
    "b/x/1",
    "b/x/deep",
    "b.txt",
    "to-b",
    "ä",
  ]);
  expect((await link.call(op.listDirectory, [[tag.path, join(place, "a")]])).status).toBe("not_a_directory");
  expect((await link.call(op.listDirectory, [[tag.path, at("missing")]])).status).toBe("not_found");
  mkdirSync(at("empty"));
  expect(await list(at("empty"))).toEqual([]);
});

test("a long list comes in order within the window, and others are served meanwhile", async () => {
  const place = at("long");
  mkdirSync(place);
  execFileSync("sh", ["-c", `cd '${place}' && seq -f 'a-rather-long-name-%06g' 1 5000 | xargs touch`]);
  const stream = link.open(op.listDirectory, [[tag.path, place]]);
  await expect.poll(() => stream.waitingBytes).toBeGreaterThan(WINDOW - 40_000);
  expect(stream.waitingBytes).toBeLessThanOrEqual(WINDOW);
  expect((await link.call(op.ping)).status).toBe("ok");
  const { events } = await stream.collect();
  const names = events.flatMap(({ fields }) => fields.groups(tag.entry).map((entry) => entry.text(tag.name)));
  expect(names).toHaveLength(5_000);
  expect(names).toEqual([...names].sort());
});

test("a ping that comes with many lists is answered before any of them has a turn", async () => {
  const place = at("busy");
  mkdirSync(place);
  execFileSync("sh", ["-c", `cd '${place}' && seq 1 3000 | xargs touch`]);
  // Corked, so that the agent reads all the requests at once.
  link.bytes.cork();
  const lists = Array.from({ length: 20 }, () => link.open(op.listDirectory, [[tag.path, place]]));
  const answered = link.call(op.ping);
  link.bytes.uncork();
  expect((await answered).status).toBe("ok");
  expect(lists.map(({ waitingBytes }) => waitingBytes)).toEqual(lists.map(() => 0));
  const collected = await Promise.all(lists.map((list) => list.collect()));
  for (const { events } of collected) {
    expect(events.flatMap(({ fields }) => fields.groups(tag.entry))).toHaveLength(3_000);
  }
});

test("folders are made", async () => {
  const make = (path: string, ...more: FieldPair[]) => link.call(op.makeDirectory, [[tag.path, path], ...more]);
  const made = await make(at("one/two/three"), [tag.mode, 0o700]);
  expect(made.status).toBe("ok");
  expect(entryOf(made)?.int(tag.kind)).toBe(2);
  expect(statSync(at("one/two/three")).mode & 0o7777).toBe(0o700);
  expect(statSync(at("one/two")).mode & 0o7777).toBe(0o755);
  expect((await make(at("one/two"))).status).toBe("already_exists");
  writeFileSync(at("one/file"), "");
  expect((await make(at("one/file"))).status).toBe("invalid_argument");
  expect((await make(at("one/file/x"))).status).toBe("not_a_directory");
  expect((await make("/")).status).toBe("already_exists");
});

test("files and folders are moved", async () => {
  const move = (from: string, to: string) =>
    link.call(op.move, [
      [tag.path, from],
      [tag.destination, to],
    ]);
  writeFileSync(at("movable"), "m");
  const moved = await move(at("movable"), at("far/away/moved"));
  expect(moved.status).toBe("ok");
  expect(entryOf(moved)?.text(tag.path)).toBe(at("far/away/moved"));
  expect(existsSync(at("movable"))).toBe(false);
  expect(await move(at("movable"), at("x"))).toMatchObject({ status: "not_found" });
  mkdirSync(at("full/of"), { recursive: true });
  mkdirSync(at("other"));
  expect((await move(at("other"), at("full"))).status).toBe("failed_precondition");
  expect((await move(at("full"), at("full/of/itself"))).status).toBe("invalid_argument");
});

test("trees, links themselves and missing paths are removed, the root is not", async () => {
  const remove = async (path: string) => (await link.call(op.remove, [[tag.path, path]])).status;
  const place = at("doomed");
  mkdirSync(join(place, "a/b/c"), { recursive: true });
  mkdirSync(at("kept"));
  writeFileSync(at("kept/file"), "");
  symlinkSync(at("kept"), join(place, "a/link"));
  for (let i = 0; i < 700; i++) writeFileSync(join(place, `a/b/${i}`), "");
  expect(await remove(place)).toBe("ok");
  expect(existsSync(place)).toBe(false);
  expect(existsSync(at("kept/file"))).toBe(true);
  symlinkSync(at("kept"), at("kept-link"));
  expect(await remove(at("kept-link"))).toBe("ok");
  expect(lstatSync(at("kept")).isDirectory()).toBe(true);
  expect(await remove(at("kept/file"))).toBe("ok");
  expect(await remove(at("never/was"))).toBe("ok");
  expect(await remove("/etc/passwd/x")).toBe("ok");
  expect(await remove("/")).toBe("invalid_argument");
  expect(await remove("/tmp/../..")).toBe("invalid_argument");
});

test("a tree deeper than the longest path is removed and listed", async () => {
  const place = at("deep");
  mkdirSync(place);
  const name = "n".repeat(200);
  execFileSync("sh", ["-c", `cd '${place}' && for i in $(seq 1 60); do mkdir ${name}; cd -P ${name} || exit 1; done`]);
  const { status, events } = await link.call(op.listDirectory, [
    [tag.path, place],
    [tag.depth, 100],
  ]);
  expect(status).toBe("ok");
  expect(events.flatMap(({ fields }) => fields.groups(tag.entry)).length).toBeGreaterThan(15);
  expect((await link.call(op.remove, [[tag.path, place]])).status).toBe("ok");
  expect(existsSync(place)).toBe(false);
});

test("files are joined", async () => {
  for (const [name, content] of [
    ["p1", "one"],
    ["p2", ""],
    ["p3", "three"],
  ] as const)
    writeFileSync(at(name), content);
  writeFileSync(at("joined"), "old");
  const compose = (sources: string[], destination: string) =>
    link.call(op.compose, [...sources.map((path): FieldPair => [tag.path, path]), [tag.destination, destination]]);
  const done = await compose([at("p1"), at("p2"), at("p3"), at("joined")], at("joined"));
  expect(done.status).toBe("ok");
  expect(entryOf(done)?.int(tag.size)).toBe(11);
  expect(readFileSync(at("joined"), "utf8")).toBe("onethreeold");
  for (const name of ["p1", "p2", "p3"]) expect(existsSync(at(name))).toBe(false);
  writeFileSync(at("big1"), Buffer.alloc(1_000_000, 1));
  writeFileSync(at("big2"), Buffer.alloc(1_000_001, 2));
  expect(entryOf(await compose([at("big1"), at("big2")], at("in/big")))?.int(tag.size)).toBe(2_000_001);
  writeFileSync(at("p1"), "stays");
  expect(await compose([at("p1"), at("missing")], at("joined"))).toMatchObject({ status: "not_found" });
  expect((await compose([at("p1"), folder], at("joined"))).status).toBe("is_a_directory");
  expect((await compose([], at("joined"))).status).toBe("invalid_argument");
  expect((await compose([at("p1")], folder)).status).toBe("is_a_directory");
  expect(readFileSync(at("p1"), "utf8")).toBe("stays");
  expect(readFileSync(at("joined"), "utf8")).toBe("onethreeold");
});
