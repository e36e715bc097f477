/**
 * The files of a base disk as a folder, which is the lowest layer of a machine's disk where boxes cannot mount the disk
 * itself. It is made once from the image, and its files belong to the users of the boxes. What is in an image may be
 * hostile, and is a path on this host now: nobody but root may look into the folder, no file in it is anybody's on the
 * host, and there are no devices in it.
 */
import { execFile } from "node:child_process";
import { randomUUID } from "node:crypto";
import { mkdir, rename, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { promisify } from "node:util";
import { DomainError, messageOf } from "../../errors.ts";
import { buildTool, exists } from "../build-tool.ts";

const run = promisify(execFile);

const making = new Map<string, Promise<string>>();

/**
 * The folder of an image, made when it is first needed: some ten seconds, or minutes on a busy host.
 * @param users the first user of the boxes
 * @throws DomainError `machine_failed` when the image cannot be mounted or copied
 */
export function baseFolder(baseDisk: string, users: number, cacheFolder: string): Promise<string> {
  const path = join(cacheFolder, "bases", basename(baseDisk, ".ext4"));
  const work = making.get(path) ?? make(baseDisk, users, path, cacheFolder).finally(() => making.delete(path));
  making.set(path, work);
  return work;
}

async function make(baseDisk: string, users: number, path: string, cacheFolder: string): Promise<string> {
  if (await exists(path)) return path;
  const unfinished = `${path}.${randomUUID()}`;
  await mkdir(join(unfinished, "image"), { recursive: true, mode: 0o700 });
  try {
    const own = await buildTool({ beside: import.meta.url, source: "own.c" }, cacheFolder);
    // The mount is in a namespace of its own and goes with it, however this ends.
    const script =
      'mount -o loop,ro,noload -- "$1" "$2/image" && cp -a --sparse=always -- "$2/image" "$2/files" && "$3" "$2/files" "$4"';
    await run("unshare", ["--mount", "sh", "-c", script, "sh", baseDisk, unfinished, own, String(users)]);
    await rename(join(unfinished, "files"), path);
  } catch (error) {
    const said = String((error as { stderr?: string }).stderr || messageOf(error)).trim();
    const problem = `the files of ${baseDisk} cannot be taken out: ${said.slice(-500)}`;
    throw new DomainError("machine_failed", problem, {}, { cause: error });
  } finally {
    await rm(unfinished, { recursive: true, force: true });
  }
  return path;
}
