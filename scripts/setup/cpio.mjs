/** Cpio archives in the "newc" format, which the kernel unpacks as its initramfs. */

/**
 * @typedef {{ path: string, mode: number, data: Buffer }} CpioFile
 * @typedef {{ path: string, mode: number }} CpioFolder
 * @typedef {{ path: string, mode: number, device: readonly [major: number, minor: number] }} CpioDevice
 * @typedef {CpioFile | CpioFolder | CpioDevice} CpioEntry `path` is relative to the root; parents come first.
 */

const typeBits = { file: 0o100000, folder: 0o040000, characterDevice: 0o020000 };
const noDevice = /** @type {const} */ ([0, 0]);

/**
 * The archive as bytes; the same entries give the same bytes (owner root, time 0).
 * @param {readonly CpioEntry[]} entries
 */
export function cpioArchive(entries) {
  const parts = entries.flatMap((entry, index) => record(index + 1, entry));
  return Buffer.concat([...parts, ...record(0, { path: "TRAILER!!!", mode: 0, data: Buffer.alloc(0) }, 0)]);
}

/**
 * @param {number} inode
 * @param {CpioEntry} entry
 * @param {number} [mode]
 */
function record(inode, entry, mode = entry.mode | typeOf(entry)) {
  const data = "data" in entry ? entry.data : Buffer.alloc(0);
  const device = "device" in entry ? entry.device : noDevice;
  const name = Buffer.from(`${entry.path}\0`);
  const links = mode & typeBits.folder ? 2 : 1;
  // inode, mode, uid, gid, links, mtime, size, device of the file system, device of a device file, name length, check
  const fields = [inode, mode, 0, 0, links, 0, data.length, 0, 0, ...device, name.length, 0];
  const header = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, "0")).join("")}`);
  return [padded(Buffer.concat([header, name])), padded(data)];
}

/** @param {CpioEntry} entry */
function typeOf(entry) {
  if ("data" in entry) return typeBits.file;
  return "device" in entry ? typeBits.characterDevice : typeBits.folder;
}

/** @param {Buffer} bytes */
function padded(bytes) {
  return Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)]);
}
