/** A small disk: a file system of its own for a daemon's state folder, which a test fills to the last byte. */
import { execFileSync } from "node:child_process";
import { closeSync, openSync, rmSync, statfsSync, writeSync } from "node:fs";
import { join } from "node:path";

export interface SmallDisk extends AsyncDisposable {
  /** Takes every free byte but `leftBytes`. */
  fill(leftBytes?: number): void;
  free(): void;
  freeBytes(): number;
}

/** Why no file system can be mounted here, or false. */
export const cannotMount = process.getuid?.() === 0 ? false : "only root may mount a file system";

/**
 * Moves a folder with its files to a small disk. No daemon may run on the folder.
 * @param kind `tmpfs` is quick. Machines cannot run on one that is full: the kernel takes a page of it even for a byte
 *   that is read out of a hole, and kills a process for which there is none.
 */
export function moveToSmallDisk(folder: string, sizeMiB: number, kind: "tmpfs" | "ext4" = "tmpfs"): SmallDisk {
  const aside = `${folder}.aside`;
  execFileSync("cp", ["-a", "--sparse=always", folder, aside]);
  rmSync(folder, { recursive: true });
  execFileSync("mkdir", [folder]);
  const image = `${folder}.image`;
  if (kind === "ext4") {
    execFileSync("truncate", ["-s", `${sizeMiB}M`, image]);
    execFileSync("mkfs.ext4", ["-q", "-m", "0", "-O", "^has_journal", image]);
    execFileSync("mount", ["-o", "loop", image, folder]);
    execFileSync("chmod", ["700", folder]);
    rmSync(join(folder, "lost+found"), { recursive: true });
  } else {
    execFileSync("mount", ["-t", "tmpfs", "-o", `size=${sizeMiB}m,mode=700`, "firkin-test", folder]);
  }
  execFileSync("cp", ["-a", "--sparse=always", `${aside}/.`, folder]);
  rmSync(aside, { recursive: true });
  const filler = join(folder, "filler");
  return {
    fill(leftBytes = 0) {
      const file = openSync(filler, "a");
      const [big, small] = [Buffer.alloc(1 << 20), Buffer.alloc(4096)];
      try {
        for (const block of [big, small]) while (tryWrite(file, block)) {}
      } finally {
        closeSync(file);
      }
      if (leftBytes > 0) execFileSync("truncate", ["-s", `-${leftBytes}`, filler]);
    },
    free: () => rmSync(filler, { force: true }),
    freeBytes: () => {
      const { bavail, bsize } = statfsSync(folder);
      return bavail * bsize;
    },
    async [Symbol.asyncDispose]() {
      execFileSync("umount", ["--lazy", folder]);
      rmSync(image, { force: true });
    },
  };
}

function tryWrite(file: number, block: Buffer): boolean {
  try {
    return writeSync(file, block) === block.length;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOSPC") return false;
    throw error;
  }
}
