/**
 * Runs programs of the base disk on this host itself, as the raw baseline of computing: the host's own python3 or node
 * may be another version or build, and would be compared with the guest's.
 */
import { execFile } from "node:child_process";
import { mkdtemp, rmdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

export class NativePrograms implements AsyncDisposable {
  /** Where the base disk is mounted; undefined where that is not allowed, and the host's own programs run. */
  readonly #root: string | undefined;

  private constructor(root: string | undefined) {
    this.#root = root;
  }

  /** Mounts the disk, read-only, with a file system in memory as its `/tmp`. */
  static async of(baseDisk: string): Promise<NativePrograms> {
    const root = await mkdtemp(join(tmpdir(), "firkin-bench-root-"));
    try {
      await run("mount", ["-o", "loop,ro,noload", baseDisk, root]);
    } catch {
      await rmdir(root);
      return new NativePrograms(undefined);
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

  get areOfBaseDisk(): boolean {
    return this.#root !== undefined;
  }

  /** Runs a script in a login shell, as a command of a sandbox is run. */
  async shell(script: string): Promise<void> {
    const shell = ["bash", "-l", "-c", script];
    await (this.#root ? run("chroot", [this.#root, ...shell], { cwd: "/" }) : run(shell[0] ?? "", shell.slice(1)));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#root) return;
    await run("umount", ["--recursive", this.#root]);
    await rmdir(this.#root);
  }
}
