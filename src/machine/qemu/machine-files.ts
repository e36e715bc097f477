/**
 * The files of a machine's folder, and which of them its QEMU may write. QEMU sees each file by itself, and one folder for
 * its sockets: so it can put nothing else, a link for example, where the daemon expects a file.
 */
import { execFile } from "node:child_process";
import { chmod, chown, lstat, mkdir, open } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { messageOf } from "../../errors.ts";
import type { Cell } from "../jail/jail.ts";
import { diskName } from "./disk.ts";

const run = promisify(execFile);

export const memoryName = "memory.img";
/** Where QEMU saves its devices to. */
export const devicesName = "devices.bin";
const socketsName = "run";
/** What of a machine's folder belongs to its user for as long as there is a machine. */
export const ownedEntry = socketsName;

/** What the jail shows QEMU of the folder. */
export interface SharedFiles {
  readonly writable: readonly string[];
  readonly readable: readonly string[];
}

/**
 * Gives the machine's user what it may write: its disk, the place of its devices, its sockets, and the memory of a machine
 * that boots. What other machines have too is made readable for everybody and is nobody's to write.
 * @param lowerLayers names of the disk's lower layers
 * @param bootMemoryBytes size of the memory of a machine that boots; undefined: the memory is an image in the folder
 */
export async function shareFiles(
  folder: string,
  { user }: Pick<Cell, "user">,
  lowerLayers: readonly string[],
  bootMemoryBytes: number | undefined,
): Promise<SharedFiles> {
  const sockets = join(folder, socketsName);
  const [disk, devices, memory] = [diskName, devicesName, memoryName].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ];
  const isBoot = bootMemoryBytes !== undefined;
  await Promise.all([
    mkdir(sockets, { mode: 0o700 }),
    makeFile(devices, 0),
    ...(isBoot ? [makeFile(memory, bootMemoryBytes)] : [seal(memory)]),
    ...lowerLayers.map((name) => seal(join(folder, name))),
    chmod(disk, 0o600),
  ]);
  const writable = [sockets, disk, devices, ...(isBoot ? [memory] : [])];
  if (user !== undefined) await Promise.all(writable.map((path) => chown(path, user, user)));
  const readable = [...(isBoot ? [] : [memory]), ...lowerLayers.map((name) => join(folder, name))];
  return { writable, readable };
}

/** A file that never changes any more: readable for every machine, and owned by the daemon's user. */
export async function seal(path: string): Promise<void> {
  const { uid, mode } = await lstat(path);
  const own = process.getuid?.() ?? uid;
  if (uid !== own) await chown(path, own, process.getgid?.() ?? own);
  if ((mode & 0o777) !== 0o444) await chmod(path, 0o444);
}

/** The path of a socket of a machine; machines of earlier versions have theirs in the folder itself. */
export async function findSockets(folder: string): Promise<string> {
  const sockets = join(folder, socketsName);
  const found = await lstat(sockets).catch(() => undefined);
  return found?.isDirectory() ? sockets : folder;
}

/** Where a new machine has its sockets. */
export const socketsFolder = (folder: string) => join(folder, socketsName);

async function makeFile(path: string, sizeBytes: number): Promise<void> {
  const handle = await open(path, "wx", 0o600);
  try {
    if (sizeBytes > 0) await handle.truncate(sizeBytes);
  } finally {
    await handle.close();
  }
  if (sizeBytes > 0) await allocate(path, sizeBytes);
}

/**
 * Takes the room of a file before it is written to. A process that writes into mapped memory for which the disk has no
 * room is killed, so a machine that boots would end when the disk is full.
 * @throws the error of a disk that is full now
 */
async function allocate(path: string, sizeBytes: number): Promise<void> {
  try {
    await run("fallocate", ["--length", String(sizeBytes), path]);
  } catch (error) {
    if (/No space left on device/.test(messageOf(error))) throw error;
    // Some file systems cannot; then the file takes its room as it is written.
  }
}
