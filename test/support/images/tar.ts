/** A writer of tar archives, right and wrong ones, as layers of images have them. */

export interface TarFile {
  readonly path: string;
  /** A tar type flag; default a file, or a folder when the path ends with a slash. */
  readonly type?: string;
  readonly content?: string | Buffer;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly mtimeS?: number;
  readonly target?: string;
  readonly device?: readonly [major: number, minor: number];
  /** Written as pax records; `SCHILY.xattr.` attributes too. */
  readonly pax?: Readonly<Record<string, string | Buffer>>;
}

/** @param options `end`: whether the two empty blocks at the end are there */
export function makeTar(files: readonly TarFile[], { end = true } = {}): Buffer {
  return Buffer.concat([...files.flatMap(encode), ...(end ? [Buffer.alloc(1024)] : [])]);
}

function encode(file: TarFile): Buffer[] {
  const content = Buffer.from(file.content ?? "");
  const parts: Buffer[] = [];
  if (file.pax) parts.push(...block("x", "pax", paxRecords(file.pax), file));
  if (file.path.length > 100) parts.push(...block("L", "././@LongLink", Buffer.from(`${file.path}\0`, "latin1"), file));
  if ((file.target ?? "").length > 100)
    parts.push(...block("K", "././@LongLink", Buffer.from(`${file.target}\0`, "latin1"), file));
  const type = file.type ?? (file.path.endsWith("/") ? "5" : "0");
  parts.push(...block(type, file.path, content, file));
  return parts;
}

function block(type: string, path: string, content: Buffer, file: TarFile): Buffer[] {
  const head = Buffer.alloc(512);
  const octal = (value: number, at: number, length: number) =>
    head.write(`${value.toString(8).padStart(length - 1, "0")}\0`, at, "latin1");
  head.write(path.slice(0, 100), 0, "latin1");
  octal(file.mode ?? (type === "5" ? 0o755 : 0o644), 100, 8);
  octal(Math.min(file.uid ?? 0, 0o7777777), 108, 8);
  octal(Math.min(file.gid ?? 0, 0o7777777), 116, 8);
  octal(content.length, 124, 12);
  octal(file.mtimeS ?? 1_700_000_000, 136, 12);
  head.write(type, 156, "latin1");
  head.write((file.target ?? "").slice(0, 100), 157, "latin1");
  head.write("ustar\x0000", 257, "latin1");
  octal(file.device?.[0] ?? 0, 329, 8);
  octal(file.device?.[1] ?? 0, 337, 8);
  head.fill(0x20, 148, 156);
  const sum = head.reduce((total, byte) => total + byte, 0);
  head.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return [head, content, Buffer.alloc((512 - (content.length % 512)) % 512)];
}

function paxRecords(records: Readonly<Record<string, string | Buffer>>): Buffer {
  return Buffer.concat(
    Object.entries(records).map(([key, value]) => {
      const body = Buffer.concat([Buffer.from(` ${key}=`), Buffer.from(value), Buffer.from("\n")]);
      let length = body.length + 1;
      while (`${length}`.length + body.length !== length) length = `${length}`.length + body.length;
      return Buffer.concat([Buffer.from(`${length}`), body]);
    }),
  );
}
