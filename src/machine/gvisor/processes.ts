/** The processes of a box: gVisor's kernel, its helpers, and one process of the host for each of the guest's. */
import { readdirSync, readFileSync } from "node:fs";
import { parseProcessStat } from "../processes.ts";

/** The keeper and everything below it. Processes that end meanwhile are left out. */
function pidsBelow(pid: number): number[] {
  const all = [pid];
  for (let at = 0; at < all.length; at++) all.push(...childrenOf(all[at] ?? 0));
  return all;
}

function childrenOf(pid: number): number[] {
  const folder = `/proc/${pid}/task`;
  return orNone(() => readdirSync(folder)).flatMap((thread) =>
    orNone(() => readFileSync(`${folder}/${thread}/children`, "utf8").split(" ").filter(Boolean).map(Number)),
  );
}

function orNone<T>(read: () => T[]): T[] {
  try {
    return read();
  } catch {
    // The process has ended.
    return [];
  }
}

/** Processor time of a box, in milliseconds. */
export function cpuTimeBelow(keeper: number): number {
  const times = pidsBelow(keeper).flatMap((pid) =>
    orNone(() => [parseProcessStat(readFileSync(`/proc/${pid}/stat`, "utf8"))?.cpuTimeMs ?? 0]),
  );
  return times.reduce((sum, time) => sum + time, 0);
}

/** Memory that no other machine shares, in bytes: anonymous pages, and gVisor's file of the guest's memory. */
export function privateBytesBelow(keeper: number): number {
  const sizes = pidsBelow(keeper).flatMap((pid) =>
    orNone(() => {
      const text = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
      return [...text.matchAll(/^Pss_(?:Anon|Shmem):\s+(\d+) kB$/gm)].map((match) => Number(match[1]) * 1024);
    }),
  );
  return sizes.reduce((sum, size) => sum + size, 0);
}
