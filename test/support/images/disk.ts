/** Makes disks of layers in tests, and looks at them with the programs of e2fsprogs. */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";
import { type DiskOrder, type MadeDisk, makeDisk } from "../../../src/template/image-disk/make-disk.ts";

const run = promisify(execFile);

const diffIdOf = (bytes: Buffer) => `sha256:${createHash("sha256").update(bytes).digest("hex")}`;

export interface TestDisk extends AsyncDisposable {
  readonly path: string;
  readonly made: MadeDisk;
  /** What `debugfs` answers to a request. */
  readonly ask: (request: string) => Promise<string>;
  /** The problems that `e2fsck` finds; throws when there are any. */
  readonly check: () => Promise<void>;
}

export async function diskOf(layers: readonly Buffer[], options: Partial<DiskOrder> = {}): Promise<TestDisk> {
  const folder = await mkdtemp(join(tmpdir(), "firkin-disk-"));
  const dispose = () => rm(folder, { recursive: true, force: true });
  try {
    const files = layers.map(async (layer, index) => {
      const path = join(folder, `layer-${index}`);
      const packed = gzipSync(layer);
      await writeFile(path, packed);
      return { path, sizeBytes: packed.length, diffId: diffIdOf(layer) };
    });
    const path = join(folder, "disk.ext4");
    const made = await makeDisk(
      {
        layers: await Promise.all(files),
        target: path,
        envs: {},
        gaps: { bash: { content: Buffer.from("a shell") }, busybox: undefined, authorities: "" },
        limits: { maxEntries: 100_000, maxDiskMiB: 65_536 },
        minDiskMiB: 512,
        minFreeMiB: 64,
        ...options,
      },
      () => {},
    );
    return {
      path,
      made,
      ask: async (request) => (await run("debugfs", ["-R", request, path], { maxBuffer: 64 * 2 ** 20 })).stdout,
      check: async () => void (await run("e2fsck", ["-f", "-n", path])),
      [Symbol.asyncDispose]: dispose,
    };
  } catch (error) {
    await dispose();
    throw error;
  }
}
