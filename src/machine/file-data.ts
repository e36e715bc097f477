/** The data of sparse files: what is no hole in them, so that a disk of 8 GiB with 50 MB on it is read in no time. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { buildTool } from "./build-tool.ts";
import { type BlockRuns, blockBytes } from "./snapshot-files.ts";

const run = promisify(execFile);

/** Finds the blocks of a file that are not holes. All others hold zeros. */
export type FindData = (path: string) => Promise<BlockRuns>;

/** @throws DomainError `failed_precondition` when the program that does it does not compile */
export async function openDataFinder(cacheFolder: string): Promise<FindData> {
  const program = await buildTool({ beside: import.meta.url, source: "file-data.c" }, cacheFolder);
  return async (path) => {
    const { stdout } = await run(program, [path, String(blockBytes)], { maxBuffer: 16 << 20 });
    return stdout
      .split("\n")
      .filter(Boolean)
      .map((line) => {
        const [first = 0, count = 0] = line.split(" ").map(Number);
        return [first, count] as const;
      });
  };
}
