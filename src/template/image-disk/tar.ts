/**
 * A reader of tar archives as container layers have them: ustar, pax, GNU long names. The well-kept libraries decode
 * pax records as UTF-8 text, which loses the bytes of extended attributes (`security.capability`) and of names in other
 * encodings. Here every text is one character a byte (latin1), from the archive to the disk.
 */
import { DomainError } from "../../errors.ts";

export type EntryKind = "file" | "hardlink" | "symlink" | "character" | "block" | "directory" | "fifo";

/** One entry of a layer. Texts are latin1: one character a byte. */
export interface TarEntry {
  readonly kind: EntryKind;
  /** As in the archive. */
  readonly path: string;
  readonly linkTarget: string;
  /** Permission bits, with setuid, setgid and sticky. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeS: number;
  /** Of a file; 0 for everything else. */
  readonly sizeBytes: number;
  readonly major: number;
  readonly minor: number;
  readonly xattrs: ReadonlyMap<string, Buffer> | undefined;
}

/** What a reader finds, in the order of the archive. `data` belongs to the file that `entry` named last. */
export interface TarSink {
  entry(entry: TarEntry): void;
  data(bytes: Buffer): void;
}

const blockBytes = 512;
/** Of a long name or of pax records. Linux allows 64 KiB for one attribute. */
const maxExtensionBytes = 1024 * 1024;
const kinds: Readonly<Record<string, EntryKind>> = {
  "0": "file",
  "\0": "file",
  "7": "file",
  "1": "hardlink",
  "2": "symlink",
  "3": "character",
  "4": "block",
  "5": "directory",
  "6": "fifo",
};
const attributePrefix = "SCHILY.xattr.";

type Extension = "pax" | "global" | "path" | "linkTarget";
type State =
  | { readonly kind: "header" }
  | { readonly kind: "extension"; readonly what: Extension; readonly sizeBytes: number }
  | { readonly kind: "data" }
  | { readonly kind: "padding" }
  | { readonly kind: "ended" };

export class TarReader {
  readonly #sink: TarSink;
  #state: State = { kind: "header" };
  /** Bytes that are too few for the state. */
  #rest: Buffer = Buffer.alloc(0);
  #leftBytes = 0;
  #paddingBytes = 0;
  #pax = new Map<string, Buffer>();
  #longPath: string | undefined;
  #longLinkTarget: string | undefined;
  #position = 0;

  constructor(sink: TarSink) {
    this.#sink = sink;
  }

  /** While `entry` is called: where the entry's data begin in the archive. */
  get position(): number {
    return this.#position;
  }

  /** @throws DomainError `failed_precondition` when the archive is no tar archive, or has what images must not have */
  push(bytes: Buffer): void {
    let input = this.#rest.length > 0 ? Buffer.concat([this.#rest, bytes]) : bytes;
    for (;;) {
      const used = this.#step(input);
      if (used === undefined) break;
      input = input.subarray(used);
    }
    this.#rest = Buffer.from(input);
  }

  /** Tells that the archive is over. @throws DomainError `failed_precondition` when it ends inside of an entry */
  end(): void {
    const isWhole = this.#state.kind === "ended" || (this.#state.kind === "header" && this.#rest.length === 0);
    if (!isWhole) throw bad("it ends inside of an entry");
  }

  /** Takes what the state wants. @returns the number of bytes it used; undefined when it needs more */
  #step(input: Buffer): number | undefined {
    const state = this.#state;
    switch (state.kind) {
      case "header": {
        if (input.length < blockBytes) return undefined;
        this.#position += blockBytes;
        this.#header(input.subarray(0, blockBytes));
        return blockBytes;
      }
      case "extension": {
        const padded = state.sizeBytes + paddingOf(state.sizeBytes);
        if (input.length < padded) return undefined;
        this.#position += padded;
        this.#extension(state.what, input.subarray(0, state.sizeBytes));
        this.#state = { kind: "header" };
        return padded;
      }
      case "data": {
        if (input.length === 0) return undefined;
        const taken = Math.min(input.length, this.#leftBytes);
        this.#sink.data(input.subarray(0, taken));
        this.#leftBytes -= taken;
        this.#position += taken;
        if (this.#leftBytes === 0) this.#state = { kind: "padding" };
        return taken;
      }
      case "padding": {
        if (input.length < this.#paddingBytes) return undefined;
        this.#position += this.#paddingBytes;
        this.#state = { kind: "header" };
        return this.#paddingBytes;
      }
      case "ended":
        // What follows the end belongs to the blob, whose digest counts it, and to no entry.
        return input.length > 0 ? input.length : undefined;
      default:
        return state satisfies never;
    }
  }

  #header(block: Buffer): void {
    if (isZero(block)) {
      this.#state = { kind: "ended" };
      return;
    }
    checkSum(block);
    const type = block.toString("latin1", 156, 157);
    const sizeBytes = number(block, 124, 12, "size");
    const extension = { x: "pax", g: "global", L: "path", K: "linkTarget" }[type] as Extension | undefined;
    if (extension !== undefined) {
      if (sizeBytes > maxExtensionBytes) throw bad("a name or attribute is too long");
      this.#state = { kind: "extension", what: extension, sizeBytes };
      return;
    }
    const kind = kinds[type];
    if (kind === undefined) {
      throw bad(type === "S" ? "it has a sparse file in GNU's own form" : `it has an entry of type '${type}'`);
    }
    const entry = this.#entry(block, kind, sizeBytes);
    this.#pax = new Map();
    this.#longPath = undefined;
    this.#longLinkTarget = undefined;
    this.#sink.entry(entry);
    this.#leftBytes = entry.sizeBytes;
    this.#paddingBytes = paddingOf(entry.sizeBytes);
    this.#state = entry.sizeBytes > 0 ? { kind: "data" } : { kind: "header" };
  }

  #entry(block: Buffer, declared: EntryKind, sizeInHeader: number): TarEntry {
    const pax = this.#pax;
    if ([...pax.keys()].some((key) => key.startsWith("GNU.sparse."))) throw bad("it has a sparse file in GNU's form");
    const path = pax.get("path")?.toString("latin1") ?? this.#longPath ?? headerPath(block);
    const linkTarget = pax.get("linkpath")?.toString("latin1") ?? this.#longLinkTarget ?? text(block, 157, 100);
    // Before there was a type for folders, a slash at the end told.
    const kind = declared === "file" && path.endsWith("/") ? "directory" : declared;
    const size = pax.has("size") ? decimal(pax, "size") : sizeInHeader;
    return {
      kind,
      path,
      linkTarget,
      mode: number(block, 100, 8, "mode") & 0o7777,
      uid: owner(pax.has("uid") ? decimal(pax, "uid") : number(block, 108, 8, "uid")),
      gid: owner(pax.has("gid") ? decimal(pax, "gid") : number(block, 116, 8, "gid")),
      mtimeS: Math.floor(pax.has("mtime") ? decimal(pax, "mtime") : number(block, 136, 12, "mtime")),
      sizeBytes: kind === "file" ? checkSize(size) : 0,
      major: isDevice(kind) ? number(block, 329, 8, "device") : 0,
      minor: isDevice(kind) ? number(block, 337, 8, "device") : 0,
      xattrs: attributesIn(pax),
    };
  }

  #extension(what: Extension, bytes: Buffer): void {
    const untilNul = () => bytes.toString("latin1").replace(/\0.*$/s, "");
    switch (what) {
      case "path":
        this.#longPath = untilNul();
        return;
      case "linkTarget":
        this.#longLinkTarget = untilNul();
        return;
      case "pax":
        for (const [key, value] of paxRecords(bytes)) this.#pax.set(key, value);
        return;
      case "global":
        // Comments of the program that made the archive; builders of images write nothing else there.
        return;
      default:
        what satisfies never;
    }
  }
}

function* paxRecords(bytes: Buffer): Generator<[key: string, value: Buffer]> {
  let at = 0;
  while (at < bytes.length) {
    const space = bytes.indexOf(0x20, at);
    const length = space < 0 ? Number.NaN : Number(bytes.toString("latin1", at, space));
    const equals = space < 0 ? -1 : bytes.indexOf(0x3d, space);
    const end = at + length;
    const isGood = Number.isSafeInteger(length) && equals > space && equals < end && end <= bytes.length;
    if (!isGood || bytes[end - 1] !== 0x0a) throw bad("its pax records are damaged");
    yield [bytes.toString("latin1", space + 1, equals), Buffer.from(bytes.subarray(equals + 1, end - 1))];
    at = end;
  }
}

function attributesIn(pax: ReadonlyMap<string, Buffer>): Map<string, Buffer> | undefined {
  const found = [...pax].filter(([key]) => key.startsWith(attributePrefix));
  if (found.length === 0) return undefined;
  return new Map(found.map(([key, value]) => [key.slice(attributePrefix.length), value]));
}

function headerPath(block: Buffer): string {
  const name = text(block, 0, 100);
  // GNU's own header has times where ustar has the prefix.
  const prefix = block.toString("latin1", 257, 263) === "ustar\0" ? text(block, 345, 155) : "";
  return prefix === "" ? name : `${prefix}/${name}`;
}

function text(block: Buffer, at: number, length: number): string {
  const field = block.subarray(at, at + length);
  const end = field.indexOf(0);
  return field.toString("latin1", 0, end < 0 ? length : end);
}

/** A number in octal digits, or in base 256 when its first bit is set. */
function number(block: Buffer, at: number, length: number, what: string): number {
  const first = block[at] ?? 0;
  if (first === 0x80 || first === 0xff) {
    const value = BigInt.asIntN(64, BigInt(`0x${block.toString("hex", at + Math.max(1, length - 8), at + length)}`));
    const signed = length < 9 && first === 0xff ? value - (1n << 56n) : value;
    return safe(Number(signed), what);
  }
  const digits = block.toString("latin1", at, at + length).replace(/[\0 ].*$/s, (rest) => {
    return /^[\0 ]+$/.test(rest) ? "" : rest;
  });
  const trimmed = digits.trim();
  if (trimmed === "") return 0;
  if (!/^[0-7]+$/.test(trimmed)) throw bad(`the ${what} of an entry is no number`);
  return safe(Number.parseInt(trimmed, 8), what);
}

function decimal(pax: ReadonlyMap<string, Buffer>, key: string): number {
  const value = pax.get(key)?.toString("latin1") ?? "";
  if (!/^-?\d+(\.\d*)?$/.test(value)) throw bad(`the ${key} of an entry is no number`);
  return safe(Math.floor(Number(value)), key);
}

function safe(value: number, what: string): number {
  if (!Number.isSafeInteger(value)) throw bad(`the ${what} of an entry is too large`);
  return value;
}

function owner(id: number): number {
  if (id < 0 || id > 0xffff_fffe) throw bad("the owner of an entry is no user or group id");
  return id;
}

function checkSize(bytes: number): number {
  if (bytes < 0) throw bad("the size of an entry is negative");
  return bytes;
}

function checkSum(block: Buffer): void {
  let sum = 8 * 0x20;
  for (let at = 0; at < blockBytes; at++) if (at < 148 || at >= 156) sum += block[at] ?? 0;
  if (number(block, 148, 8, "checksum") !== sum) throw bad("the checksum of a header is wrong");
}

const zeroBlock = Buffer.alloc(blockBytes);
const isZero = (block: Buffer) => block.equals(zeroBlock);
const isDevice = (kind: EntryKind) => kind === "character" || kind === "block";
const paddingOf = (sizeBytes: number) => (blockBytes - (sizeBytes % blockBytes)) % blockBytes;

function bad(why: string): DomainError {
  return new DomainError("failed_precondition", `a layer of the image is no archive that can be used: ${why}`);
}
