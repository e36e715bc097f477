/**
 * The file seals remember what the file system says of files that never change (inode, size, times), so that a change
 * is found before each restore without reading the files. A file whose seal is broken is suspect, and is read.
 */
import type { BigIntStats } from "node:fs";

interface Seal {
  readonly size: bigint;
  readonly modifiedNs: bigint;
  /** Also moves when a link to the file is made or removed, which restores and removals of snapshots do. */
  readonly changedNs: bigint;
  readonly links: bigint;
}

/** More files than a host has; a file that was forgotten is sealed again as it is found. */
const maxSeals = 100_000;

/** By device, inode and time of birth, because snapshots share files under many names. Facts of the host, so one map for the process. */
const seals = new Map<string, Seal>();

const keyOf = ({ dev, ino, birthtimeNs }: BigIntStats) => `${dev}:${ino}:${birthtimeNs}`;

/** True when a file that was seen before is no longer what it was. A file that is seen for the first time is sealed. */
export function isSealBroken(found: BigIntStats): boolean {
  const known = seals.get(keyOf(found));
  if (!known) {
    sealFile(found);
    return false;
  }
  const hasNewLinks = known.links !== found.nlink;
  const isSame = known.size === found.size && known.modifiedNs === found.mtimeNs;
  if (!isSame || (known.changedNs !== found.ctimeNs && !hasNewLinks)) return true;
  if (hasNewLinks) sealFile(found);
  return false;
}

/**
 * Takes the new count of links and time of change of a file that was just linked. Without it a link that came and went
 * between two looks would leave the count as it was, and the time would break the seal.
 */
export function noteLink(found: BigIntStats): void {
  const known = seals.get(keyOf(found));
  if (!known || known.links === found.nlink) return;
  if (known.size === found.size && known.modifiedNs === found.mtimeNs) sealFile(found);
}

/** Takes a file as it is, because its content was read and is right, or because nobody has seen it before. */
export function sealFile(found: BigIntStats): void {
  if (seals.size >= maxSeals) seals.clear();
  const { size, mtimeNs, ctimeNs, nlink } = found;
  seals.set(keyOf(found), { size, modifiedNs: mtimeNs, changedNs: ctimeNs, links: nlink });
}
