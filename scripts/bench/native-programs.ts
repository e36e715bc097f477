/**
 * Programs of the base disk, run on this host itself. The host's own python3 or node may be of another version or
 * build, so that a ratio to them says little of what an engine costs.
 */
import { execFile } from "node:child_process";
import { mkdtemp, rmdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

export class NativePrograms implements AsyncDisposable {
  readonly #root: string;

  private constructor(root: string) {
    this.#root = root;
  }

  /**
   * Mounts the disk, read-only, with a file system in memory as its `/tmp`.
   * @returns undefined where this process may not mount
   */
  static async of(baseDisk: string): Promise<NativePrograms | undefined> {
    const root = await mkdtemp(join(tmpdir(), "firkin-bench-root-"));
    try {
      await run("mount", ["-o", "loop,ro,noload", baseDisk, root]);
    } catch {
      await rmdir(root);
      return undefined;
    }
    const native = new NativePrograms(root);
    try {
      await run("mount", ["-t", "tmpfs", "tmpfs", join(root, "tmp")]);
      await run("mount", ["--rbind", "--make-rslave", "/dev", join(root, "dev")]);
      await run("mount", ["-t", "proc", "proc", join(root, "proc")]);
      return native;
    } catch (error) {
      await native[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Runs a script in a login shell, as a command of a sandbox is run. */
  async shell(script: string): Promise<void> {
    await run("chroot", [this.#root, "bash", "-l", "-c", script], { cwd: "/" });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await run("umount", ["--recursive", this.#root]);
    await rmdir(this.#root);
  }
}
