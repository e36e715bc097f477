/** Layers merged by the rules of OCI, honest ones and hostile ones. */
import { mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { BlockFile } from "../../../src/template/image-disk/block-file.ts";
import { LayerSink } from "../../../src/template/image-disk/layers.ts";
import { TarReader } from "../../../src/template/image-disk/tar.ts";
import { type Inode, Tree } from "../../../src/template/image-disk/tree.ts";
import { makeTar, type TarFile } from "../../support/images/tar.ts";

const folder = mkdtempSync(join(tmpdir(), "firkin-layers-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let disks = 0;

type Layer = readonly TarFile[];

function merge(
  layers: readonly (Layer | Buffer)[],
  { maxEntries = 10_000, maxBlocks = 100_000, pieceBytes = 1 << 20 } = {},
) {
  const disk = new BlockFile(openSync(join(folder, `${disks++}`), "wx+"), 0, maxBlocks);
  const tree = new Tree({ maxEntries });
  const sink = new LayerSink(tree, disk);
  for (const layer of layers) {
    tree.beginLayer();
    const reader = new TarReader(sink);
    const bytes = Buffer.isBuffer(layer) ? layer : makeTar(layer);
    for (let at = 0; at < bytes.length; at += pieceBytes) reader.push(bytes.subarray(at, at + pieceBytes));
    reader.end();
  }
  const read = (path: string) => {
    const inode = tree.lookup(path);
    return inode?.kind === "file" ? disk.read(inode.runs, inode.sizeBytes).toString() : inode?.kind;
  };
  return { tree, read, paths: () => listed(tree.root, "") };
}

/** Every path with what is there: a file's size, a link's target, the kind of the rest. */
function listed(inode: Inode, path: string): string[] {
  const what = { file: "", directory: "/", symlink: "@", character: "c", block: "b", fifo: "p" }[inode.kind];
  const own = path === "" ? [] : [`${path}${what}`];
  if (inode.kind !== "directory") return own;
  const names = [...inode.children].sort(([one], [other]) => (one < other ? -1 : 1));
  return [...own, ...names.flatMap(([name, child]) => listed(child.inode, `${path}/${name}`))];
}

const file = (path: string, content = path): TarFile => ({ path, content });
const link = (path: string, target: string): TarFile => ({ path, type: "2", target });
const hard = (path: string, target: string): TarFile => ({ path, type: "1", target });

test("names may begin with a slash or a dot, and missing folders are made", () => {
  const { paths, tree } = merge([
    [{ path: "./", mode: 0o700 }, file("./a"), file("/b"), file("c/d/./e"), file("c//f")],
  ]);
  expect(paths()).toEqual(["/a", "/b", "/c/", "/c/d/", "/c/d/e", "/c/f"]);
  expect(tree.root.mode).toBe(0o700);
  expect(tree.lookup("c")).toMatchObject({ mode: 0o755, uid: 0 });
});

test("a whiteout removes what is below it, and an opaque folder everything of lower layers", () => {
  const lower = [file("a"), file("d/x"), file("d/y/z"), file("o/one"), file("o/sub/two"), { path: "o/", mode: 0o700 }];
  const { paths, tree } = merge([
    lower,
    [{ path: ".wh.a" }, { path: "d/.wh.y" }, file("o/new"), { path: "o/", mode: 0o711 }, { path: "o/.wh..wh..opq" }],
  ]);
  expect(paths()).toEqual(["/d/", "/d/x", "/o/", "/o/new"]);
  expect(tree.lookup("o")).toMatchObject({ mode: 0o711 });
});

test("a whiteout leaves what its own layer has, wherever it stands in it", () => {
  const { paths, read } = merge([
    [file("a", "old"), file("d/old")],
    [file("a", "new"), { path: ".wh.a" }, file("d/new"), { path: ".wh.d" }],
  ]);
  expect(paths()).toEqual(["/a", "/d/", "/d/new"]);
  expect(read("a")).toBe("new");
});

test("whiteouts of nothing, and other files of union file systems, do nothing", () => {
  const { paths } = merge([
    [file("a"), { path: ".wh.b" }, { path: "n/.wh.c" }, { path: ".wh..wh.plnk/" }, { path: ".wh..wh.aufs" }],
  ]);
  expect(paths()).toEqual(["/a"]);
});

test.each([".wh.", ".wh..", ".wh..."])("the whiteout '%s' is refused", (path) => {
  expect(() => merge([[file("a")], [{ path }]])).toThrow("names no file");
});

test("of two entries of one name the last counts; a file replaces a folder, a folder a file", () => {
  const { paths, read } = merge([
    [file("a", "1"), file("a", "2"), file("d/x"), file("f"), link("l", "d")],
    [file("d", "file now"), { path: "f/" }, file("l", "no link now")],
  ]);
  expect(paths()).toEqual(["/a", "/d", "/f/", "/l"]);
  expect([read("a"), read("d"), read("l")]).toEqual(["2", "file now", "no link now"]);
});

test("a folder becomes a link and a folder again, and what was below the link's target stays there", () => {
  const { paths } = merge([
    [file("d/old"), file("elsewhere/kept")],
    [link("d", "elsewhere"), file("d/through")],
    [{ path: ".wh.d" }, { path: "d/" }, file("d/new")],
  ]);
  expect(paths()).toEqual(["/d/", "/d/new", "/elsewhere/", "/elsewhere/kept", "/elsewhere/through"]);
});

test("a folder takes the place of a link, as docker has it, and lower files below that link's target stay", () => {
  const { paths } = merge([
    [file("real/x"), link("d", "real")],
    [{ path: "d/" }, file("d/y")],
  ]);
  expect(paths()).toEqual(["/d/", "/d/y", "/real/", "/real/x"]);
});

test("a folder over a folder keeps what is in it and takes the new owner and mode", () => {
  const { paths, tree } = merge([[file("d/a")], [{ path: "d/", mode: 0o1777, uid: 5 }, file("d/b")]]);
  expect(paths()).toEqual(["/d/", "/d/a", "/d/b"]);
  expect(tree.lookup("d")).toMatchObject({ mode: 0o1777, uid: 5 });
});

test("hard links are one file, across layers, and outlive their first name", () => {
  const { tree, read, paths } = merge([
    [file("a", "content"), hard("b", "a")],
    [{ path: ".wh.a" }, hard("c", "/b"), hard("c", "c")],
    [file("b", "other")],
  ]);
  expect(paths()).toEqual(["/b", "/c"]);
  expect([read("b"), read("c")]).toEqual(["other", "content"]);
  expect(tree.lookup("b")).not.toBe(tree.lookup("c"));
});

test("a hard link to a symbolic link is that link", () => {
  const { tree } = merge([[link("a", "/etc/shadow"), hard("b", "a")]]);
  expect(tree.peek("b")).toBe(tree.peek("a"));
});

test.each([
  ["out of the image", hard("a", "../../etc/shadow"), "leads upwards"],
  ["to what is not there", hard("a", "etc/shadow"), "is not there"],
  ["to a whiteouted file", hard("a", "gone"), "is not there"],
  ["to a folder", hard("a", "d"), "a hard link to a folder"],
])("a hard link %s is refused", (_, entry, message) => {
  expect(() =>
    merge([
      [file("gone"), file("d/x")],
      [{ path: ".wh.gone" }, entry],
    ]),
  ).toThrow(message);
});

test("a path below a link goes where the link leads inside of the image, as with a merged /usr", () => {
  const { paths, read } = merge([
    [{ path: "usr/lib/" }, link("lib", "usr/lib"), link("abs", "/usr/lib"), link("up", "../../../usr/./lib")],
    [file("lib/x", "1"), file("abs/y", "2"), file("up/z", "3"), hard("lib/w", "abs/x")],
  ]);
  expect(paths()).toEqual([
    "/abs@",
    "/lib@",
    "/up@",
    "/usr/",
    "/usr/lib/",
    ...["w", "x", "y", "z"].map((n) => `/usr/lib/${n}`),
  ]);
  expect(read("lib/w")).toBe("1");
});

test("a link out of the image leads to the image's own root", () => {
  const { paths } = merge([
    [link("evil", "../../../../etc"), link("deep", "/../../tmp")],
    [file("evil/passwd"), file("deep/x")],
  ]);
  expect(paths()).toEqual(["/deep@", "/etc/", "/etc/passwd", "/evil@", "/tmp/", "/tmp/x"]);
});

test.each([
  ["a path upwards", [file("a/../../b")], "leads upwards"],
  ["only dots", [file("..")], "leads upwards"],
  ["a NUL byte", [{ path: "a", pax: { path: "a\0b" } }], "NUL byte"],
  ["a name of 256 bytes", [file("n".repeat(256))], "longer than 255 bytes"],
  ["a path of 5000 bytes", [file("a/".repeat(2500))], "longer than 4096 bytes"],
  ["a folder that is a link in a circle", [link("a", "b"), link("b", "a"), file("a/x")], "leads in a circle"],
  ["something below a file", [file("a"), file("a/b")], "no folder"],
  ["a root that is a file", [{ path: "./", type: "0", pax: { path: "." } }], "can only be a folder"],
  ["a link to nothing", [link("a", "")], "empty or too long"],
  ["a link of 5000 bytes", [link("a", "b".repeat(5000))], "empty or too long"],
])("%s is refused", (_, layer, message) => {
  expect(() => merge([layer])).toThrow(message);
});

test("links cannot be used to make folders without end", () => {
  const deep = "x/".repeat(100);
  const layer = [
    file(`${deep}f`),
    ...Array.from({ length: 30 }, (_, i) => link(`l${i}`, i === 0 ? deep : `l${i - 1}/${deep}`)),
  ];
  expect(() => merge([layer, [file("l29/y")]])).toThrow("more than 1000 folders deep");
});

test("there is an end to entries and to blocks", () => {
  const many = Array.from({ length: 50 }, (_, index) => file(`${index}`));
  expect(() => merge([many], { maxEntries: 40 })).toThrow("more than 40 entries");
  expect(() => merge([[file("a/b/c/d/e/f")]], { maxEntries: 3 })).toThrow("more than 3 entries");
  expect(() => merge([[file("a", "x".repeat(50_000))]], { maxBlocks: 10 })).toThrow("larger than");
});

test("devices, fifos, setuid and owners beyond 16 bits are kept", () => {
  const { tree } = merge([
    [
      { path: "c", type: "3", device: [1, 3] },
      { path: "b", type: "4", device: [8, 300] },
      { path: "p", type: "6" },
      { path: "s", mode: 0o6755, pax: { uid: "4000000000", gid: "70000" } },
    ],
  ]);
  expect(tree.lookup("c")).toMatchObject({ kind: "character", major: 1, minor: 3 });
  expect(tree.lookup("b")).toMatchObject({ kind: "block", major: 8, minor: 300 });
  expect(tree.lookup("p")).toMatchObject({ kind: "fifo" });
  expect(tree.lookup("s")).toMatchObject({ mode: 0o6755, uid: 4_000_000_000, gid: 70_000 });
});

test("attributes keep their bytes, and those of another file system are left out", () => {
  const bytes = Buffer.from([0, 1, 0xff, 0x80, 10, 61]);
  const { tree } = merge([
    [
      {
        path: "a",
        pax: {
          "SCHILY.xattr.security.capability": bytes,
          "SCHILY.xattr.user.x": "y",
          "SCHILY.xattr.trusted.overlay.opaque": "y",
          "SCHILY.xattr.system.posix_acl_access": "z",
        },
      },
    ],
  ]);
  expect([...(tree.lookup("a")?.xattrs ?? [])]).toEqual([
    ["security.capability", bytes],
    ["user.x", Buffer.from("y")],
  ]);
});

test("names keep their bytes, in long forms, too", () => {
  const latin = Buffer.from([0x66, 0xe9, 0xff]);
  const long = `${"d".repeat(80)}/${"f".repeat(120)}`;
  const { paths } = merge([
    [{ path: "x", pax: { path: latin } }, file(long), { path: "y", pax: { path: `pax/${long}` } }],
  ]);
  expect(paths()).toContain(`/${latin.toString("latin1")}`);
  expect(paths()).toContain(`/${long}`);
  expect(paths()).toContain(`/pax/${long}`);
});

test("a name of exactly 100 bytes fills its field, and ustar's prefix makes it longer", () => {
  const name = "n".repeat(100);
  const prefixed = makeTar([file(name)]);
  prefixed.write("some/prefix", 345, "latin1");
  const sum = prefixed
    .subarray(0, 512)
    .fill(0x20, 148, 156)
    .reduce((total, byte) => total + byte, 0);
  prefixed.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  expect(merge([[file(name)]]).paths()).toEqual([`/${name}`]);
  expect(merge([prefixed]).paths()).toEqual(["/some/", "/some/prefix/", `/some/prefix/${name}`]);
});

test.each([1, 7, 511, 513])("an archive may come in pieces of %i bytes", (pieceBytes) => {
  const layer = [file("a", "x".repeat(1000)), file("b/".padEnd(150, "c")), file("e", ""), file("last")];
  expect(merge([layer], { pieceBytes }).paths()).toEqual(merge([layer]).paths());
  expect(merge([layer], { pieceBytes }).read("a")).toBe("x".repeat(1000));
});

const whole = makeTar([file("a", "x".repeat(2000)), file("b")]);
test.each([
  ["no archive", Buffer.alloc(1024, "x"), "the checksum of an entry is no number"],
  ["with a wrong checksum", Buffer.from(whole).fill(1, 0, 1), "the checksum of a header is wrong"],
  ["cut in a header", whole.subarray(0, 100), "ends inside of an entry"],
  ["cut in a file", whole.subarray(0, 1500), "ends inside of an entry"],
  ["of a sparse file", makeTar([{ path: "a", type: "S" }]), "a sparse file"],
  ["of a sparse file in pax", makeTar([{ path: "a", pax: { "GNU.sparse.major": "1" } }]), "a sparse file"],
  ["of an unknown type", makeTar([{ path: "a", type: "Z" }]), "type 'Z'"],
  [
    "with damaged pax",
    makeTar([{ path: "a", type: "x", content: "99 path=b\n" }, file("b")]),
    "pax records are damaged",
  ],
  ["with a huge name", makeTar([{ path: "a", type: "L", content: "x".repeat(2 << 20) }]), "is too long"],
  ["with a size below zero", makeTar([{ path: "a", pax: { size: "-5" } }]), "size of an entry is negative"],
  ["with a size that is a word", makeTar([{ path: "a", pax: { size: "many" } }]), "is no number"],
  ["with an owner below zero", makeTar([{ path: "a", pax: { uid: "-1" } }]), "no user or group id"],
])("an archive %s is refused", (_, bytes, message) => {
  expect(() => merge([bytes])).toThrow(message);
});

test("an archive without its end marks, and one with something behind them, is whole", () => {
  expect(merge([makeTar([file("a")], { end: false })]).paths()).toEqual(["/a"]);
  expect(merge([Buffer.concat([whole, Buffer.from("rest")])]).paths()).toEqual(["/a", "/b"]);
  expect(merge([Buffer.alloc(1024)]).paths()).toEqual([]);
  expect(merge([Buffer.alloc(0)]).paths()).toEqual([]);
});
