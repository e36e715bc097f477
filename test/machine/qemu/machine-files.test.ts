/** Tests of the files of a machine's folder. */
import { spawnSync } from "node:child_process";
import { mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { shareFiles } from "../../../src/machine/qemu/machine-files.ts";

const probe = join(tmpdir(), `firkin-allocate-${process.pid}`);
const allocates = spawnSync("fallocate", ["--length", "4096", probe]).status === 0;
spawnSync("rm", ["-f", probe]);

test.skipIf(!allocates)("the memory of a machine that boots has its room on the disk before it runs", async () => {
  const folder = await mkdtemp(join(tmpdir(), "firkin-machine-"));
  try {
    await writeFile(join(folder, "disk.qcow2"), "");
    const memoryBytes = 8 << 20;
    const files = await shareFiles(folder, { user: undefined }, [], memoryBytes);
    const { size, blocks } = await stat(join(folder, "memory.img"));
    expect(size).toBe(memoryBytes);
    expect(blocks * 512).toBeGreaterThanOrEqual(memoryBytes);
    expect(files.writable).toContain(join(folder, "memory.img"));
  } finally {
    await rm(folder, { recursive: true });
  }
});
