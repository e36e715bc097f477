/**
 * The checkpoint of a machine: the state of gVisor's kernel, and the pages of the memory in files of their own. A
 * restored machine reads a page when it is first used. Its own checkpoint has the pages that were used since, and
 * leaves the others in the files it was restored from, which the new snapshot has as links.
 */
import { chown, mkdir, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import type { MachineFiles, SnapshotFile, SnapshotManifest } from "../driver.ts";
import { linkFile } from "../link-file.ts";
import { describeWritten } from "../snapshot-files.ts";
import { agentFolder, checkpointFolder, imageFolder } from "./box.ts";
import type { RunningMachine } from "./machine.ts";
import type { Orders } from "./orders.ts";
import { agentName, containerName, inBox } from "./spec.ts";
import { firstFileOwner } from "./users.ts";

/** The names are runsc's. */
const stateName = "checkpoint.img";
/** Where each page is. */
const placesName = "pages_meta.img";
const pagesName = (index: number) => (index === 0 ? "pages.img" : `pages-${index}.img`);
const isPages = ({ name }: SnapshotFile) => /^pages(-\d+)?\.img$/.test(name);

/** The agent's program in a snapshot: the memory of its process is a part of this file. */
const agentFileName = "agent";

/** With this many files a checkpoint is a whole one, because old files also keep pages that nobody has any more. */
const maxPagesFiles = 8;

/** Long enough for the largest memory. */
const checkpointDeadlineMs = 300_000;

/** What a snapshot has of the memory and the processes. */
export interface SavedCheckpoint {
  readonly files: Pick<MachineFiles, "memory" | "devices">;
  readonly moreFiles: readonly SnapshotFile[];
}

export interface CheckpointSource {
  readonly folder: string;
  readonly running: RunningMachine;
  readonly orders: Orders;
}

/**
 * Lets gVisor write a checkpoint, which also gives what gVisor still has of the disk's files to the host.
 * @returns the files' names in {@link imageFolder}; {@link dropCheckpoint} removes them
 */
export async function writeCheckpoint({ folder, running, orders }: CheckpointSource): Promise<string[]> {
  await dropCheckpoint(folder);
  const index = indexOfNext(running);
  const pagesFlags = running.machine.sharesPages ? [`--pages-file-index=${index}`] : [];
  const flags = ["--leave-running", "--compression=none", ...pagesFlags];
  await orders.give(`checkpoint --image-path=${inBox.image} ${flags.join(" ")} ${containerName}`, checkpointDeadlineMs);
  return [stateName, placesName, pagesName(index)];
}

export async function dropCheckpoint(folder: string): Promise<void> {
  const image = imageFolder(folder);
  await Promise.all((await readdir(image)).map((name) => rm(join(image, name), { force: true })));
}

/** Moves a written checkpoint into a snapshot, and links what it stands on. */
export async function keepCheckpoint(
  { folder, running }: CheckpointSource,
  written: readonly string[],
  staging: string,
): Promise<SavedCheckpoint> {
  const earlier = running.pages.slice(0, indexOfNext(running));
  const own = written.map(async (name) => {
    const path = join(staging, name);
    await rename(join(imageFolder(folder), name), path);
    // Whoever restores it in a box reads it as root of the box.
    await chown(path, firstFileOwner, firstFileOwner);
    return describeWritten(staging, name);
  });
  const links = [
    linkFile(join(agentFolder(folder), agentName), join(staging, agentFileName)),
    ...earlier.map(({ name }) => linkFile(join(checkpointFolder(folder), name), join(staging, name))),
  ];
  const [[memory, places, pages]] = await Promise.all([Promise.all(own), ...links]);
  if (!memory || !places || !pages) throw new Error("a checkpoint has three files");
  const devices = { ...running.agent, name: agentFileName };
  return { files: { memory, devices }, moreFiles: [places, ...earlier, pages] };
}

/**
 * Puts the checkpoint of a snapshot into a machine's folder.
 * @returns the files with pages, by their index; none when the snapshot was made before they were files of their own
 */
export async function placeCheckpoint(
  snapshotFolder: string,
  { moreFiles = [] }: SnapshotManifest,
  { memory, devices }: Pick<MachineFiles, "memory" | "devices">,
  folder: string,
): Promise<SnapshotFile[]> {
  const target = checkpointFolder(folder);
  await mkdir(target, { mode: 0o755 });
  await Promise.all([
    linkFile(join(snapshotFolder, memory.name), join(target, stateName)),
    linkFile(join(snapshotFolder, devices.name), join(agentFolder(folder), agentName)),
    ...moreFiles.map(({ name }) => linkFile(join(snapshotFolder, name), join(target, name))),
  ]);
  return moreFiles.filter(isPages);
}

/** The index of the pages file that the machine's next checkpoint has: those before it stay in use. */
function indexOfNext({ machine, pages }: RunningMachine): number {
  return machine.sharesPages && pages.length < maxPagesFiles ? pages.length : 0;
}
