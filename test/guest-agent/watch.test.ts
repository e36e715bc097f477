/** Tests of WATCH. */
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { buildSanitized, startAgent } from "../support/guest/built-agent.ts";
import { type FieldPair, op, type RawLink, type RawStream, tag } from "../support/guest/raw-link.ts";

const kinds = ["", "create", "write", "remove", "rename", "chmod"];
let top: string;
let folder: string;
let link: RawLink;

beforeAll(() => {
  buildSanitized();
  top = mkdtempSync(join(tmpdir(), "firkin-watch-"));
});

afterAll(() => rmSync(top, { recursive: true, force: true }));

beforeEach(async () => {
  folder = mkdtempSync(join(top, "folder-"));
  link = await startAgent();
});

afterEach(async () => {
  await link[Symbol.asyncDispose]();
});

const at = (name: string) => join(folder, name);

async function watch(...more: FieldPair[]): Promise<RawStream> {
  const stream = link.open(op.watch, [[tag.path, folder], ...more]);
  expect((await stream.event()).kind).toBe(1);
  return stream;
}

/** All changes up to now, told by a mark. */
async function changesUpToMark(stream: RawStream, mark: number): Promise<string[]> {
  stream.control(2, [[tag.count, mark]]);
  const seen: string[] = [];
  for (;;) {
    const { kind, fields } = await stream.event();
    if (kind === 6) {
      expect(fields.int(tag.count)).toBe(mark);
      return seen;
    }
    expect(kind).toBe(4);
    seen.push(`${kinds[fields.int(tag.kind) ?? 0]} ${fields.text(tag.name)}`);
  }
}

/** All changes up to a file named `last`, which this makes as an end mark. */
async function changes(stream: RawStream, last = "last"): Promise<string[]> {
  writeFileSync(at(last), "");
  const seen: string[] = [];
  for (;;) {
    const { kind, fields } = await stream.event();
    expect(kind).toBe(4);
    if (fields.text(tag.name) === last) return seen;
    seen.push(`${kinds[fields.int(tag.kind) ?? 0]} ${fields.text(tag.name)}`);
  }
}

test("files that come, change and go are reported", async () => {
  const stream = await watch();
  writeFileSync(at("a"), "x");
  chmodSync(at("a"), 0o600);
  renameSync(at("a"), at("b"));
  unlinkSync(at("b"));
  mkdirSync(at("sub"));
  writeFileSync(at("sub/unseen"), "");
  expect(await changes(stream)).toEqual([
    "create a",
    "write a",
    "chmod a",
    "rename a",
    "create b",
    "remove b",
    "create sub",
  ]);
  stream.reset();
  expect((await stream.collect()).status).toBe("cancelled");
});

test("a new file that is written through the link is reported as written once, with its content", async () => {
  const stream = await watch([tag.includeEntry, true]);
  const written = link.open(op.write, [[tag.path, at("new")]]);
  written.data("12345");
  written.end();
  expect((await written.collect()).status).toBe("ok");
  const events: { name: string; size: number | undefined }[] = [];
  writeFileSync(at("last"), "");
  for (;;) {
    const { fields } = await stream.event();
    if (fields.text(tag.name) === "last") break;
    const [entry] = fields.groups(tag.entry);
    events.push({ name: kinds[fields.int(tag.kind) ?? 0] ?? "", size: entry?.int(tag.size) });
  }
  expect(events.map(({ name }) => name).filter((name) => name !== "chmod")).toEqual(["create", "write"]);
  expect(events.find(({ name }) => name === "write")?.size).toBe(5);
});

test("a mark comes after the events of every change before it, and answers the ones before it", async () => {
  const stream = await watch([tag.recursive, true]);
  for (let mark = 1; mark <= 20; mark++) {
    mkdirSync(at(`${mark}`));
    // The folder is watched before it gets its file: a file that is found in a new folder may be whole already.
    expect(await changesUpToMark(stream, 2 * mark - 1)).toEqual([`create ${mark}`]);
    writeFileSync(at(`${mark}/file`), "content");
    const seen = await changesUpToMark(stream, 2 * mark);
    expect(seen).toEqual([`create ${mark}/file`, `write ${mark}/file`]);
  }
  // A mark without a number, and a control that a watch does not know, are ignored.
  stream.control(2, []);
  stream.control(1, []);
  expect(await changes(stream)).toEqual([]);
});

test("changes of existing files carry their entry", async () => {
  const stream = await watch([tag.includeEntry, true]);
  writeFileSync(at("a"), "four");
  const { fields } = await stream.event();
  const [entry] = fields.groups(tag.entry);
  expect(entry?.text(tag.path)).toBe(at("a"));
  expect(entry?.int(tag.kind)).toBe(1);
  renameSync(at("a"), at("b"));
  for (;;) {
    const event = await stream.event();
    if (event.fields.int(tag.kind) !== 4) continue;
    expect(event.fields.groups(tag.entry)).toEqual([]);
    break;
  }
});

test("a recursive watch reports present and later folders, each change once", async () => {
  mkdirSync(at("old/deep"), { recursive: true });
  const stream = await watch([tag.recursive, true]);
  writeFileSync(at("old/deep/file"), "");
  execFileSync("sh", ["-c", "mkdir -p new/er/est && for i in 1 2 3 4 5; do touch new/er/est/$i; done"], {
    cwd: folder,
  });
  const seen = await changes(stream);
  expect(seen[0]).toBe("create old/deep/file");
  const created = seen.filter((line) => line.startsWith("create new"));
  expect(created.sort()).toEqual([
    "create new",
    "create new/er",
    "create new/er/est",
    ...[1, 2, 3, 4, 5].map((i) => `create new/er/est/${i}`),
  ]);
  writeFileSync(at("new/er/est/later"), "");
  expect(await changes(stream, "last2")).toContain("create new/er/est/later");
});

test("a recursive watch follows a moved folder, and drops one that moved away", async () => {
  mkdirSync(at("one/inner"), { recursive: true });
  const stream = await watch([tag.recursive, true]);
  renameSync(at("one"), at("two"));
  expect(await changes(stream)).toEqual(["rename one", "create two", "create two/inner"]);
  writeFileSync(at("two/inner/file"), "");
  expect(await changes(stream, "last2")).toEqual(["create two/inner/file"]);
  renameSync(at("two"), join(top, `away-${Date.now()}`));
  rmSync(at("last"));
  expect(await changes(stream, "last3")).toEqual(["rename two", "remove last"]);
});

test("a recursive watch reports the entries of a new folder as created and, with content, written", async () => {
  const elsewhere = mkdtempSync(join(top, "elsewhere-"));
  writeFileSync(join(elsewhere, "full"), "1");
  writeFileSync(join(elsewhere, "empty"), "");
  const stream = await watch([tag.recursive, true]);
  renameSync(elsewhere, at("brought"));
  const [first, ...rest] = await changesUpToMark(stream, 1);
  expect(first).toBe("create brought");
  expect(rest.sort()).toEqual(["create brought/empty", "create brought/full", "write brought/full"]);
});

test("a recursive watch does not follow links to folders", async () => {
  const elsewhere = mkdtempSync(join(top, "elsewhere-"));
  symlinkSync(elsewhere, at("link"));
  const stream = await watch([tag.recursive, true]);
  writeFileSync(join(elsewhere, "file"), "");
  symlinkSync(elsewhere, at("second"));
  expect(await changes(stream)).toEqual(["create second"]);
});

test("a watch ends when its folder goes, is moved, or was never there", async () => {
  const gone = await watch();
  rmdirSync(folder);
  expect((await gone.collect()).status).toBe("not_found");
  mkdirSync(folder);
  const moved = await watch([tag.recursive, true]);
  renameSync(folder, `${folder}-moved`);
  expect((await moved.collect()).status).toBe("not_found");
  expect((await link.call(op.watch, [[tag.path, folder]])).status).toBe("not_found");
  expect((await link.call(op.watch, [[tag.path, "/etc/passwd"]])).status).toBe("not_a_directory");
});

test("a network mount is watched only when the request allows it", async (context) => {
  const script = fileURLToPath(new URL("fixtures/empty_fuse.py", import.meta.url));
  const server = spawn("python3", [script, folder], { stdio: ["ignore", "pipe", "ignore"] });
  try {
    const [said] = await Promise.race([once(server.stdout, "data"), once(server, "exit")]);
    if (!String(said).includes("mounted")) return context.skip("this machine does not let us mount FUSE");
    const refused = await link.call(op.watch, [[tag.path, folder]]);
    expect([refused.status, refused.fields.text(tag.message)]).toEqual([
      "invalid_argument",
      `cannot watch path on network filesystem: ${folder}`,
    ]);
    await watch([tag.allowNetworkMounts, true]);
  } finally {
    spawnSync("umount", ["--lazy", folder]);
    server.kill("SIGKILL");
  }
});

test("too many changes end the stream, and nothing else", async () => {
  const stream = link.open(op.watch, [[tag.path, folder]]);
  expect((await stream.next()).type).toBe("EVENT");
  execFileSync(
    "python3",
    ["-c", "import os\nfor i in range(40000):\n  f=str(i%7)\n  open(f,'w').close()\n  os.unlink(f)"],
    {
      cwd: folder,
    },
  );
  const { status } = await stream.collect();
  expect(status).toBe("resource_exhausted");
  expect((await link.call(op.ping)).status).toBe("ok");
});
