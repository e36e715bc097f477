/** The engine's small C programs are compiled into the cache when first needed, once per version of their source. */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { access, mkdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { DomainError, messageOf } from "../../errors.ts";

const run = promisify(execFile);

/**
 * The path of a compiled program.
 * @param name of its source in this folder, without `.c`
 * @throws DomainError `failed_precondition` when the source does not compile
 */
export async function buildTool(name: string, cacheFolder: string): Promise<string> {
  const source = await findSource(name);
  const hash = createHash("sha256")
    .update(await readFile(source))
    .digest("hex");
  const path = join(cacheFolder, `${name}-${hash.slice(0, 16)}`);
  if (await exists(path)) return path;
  await mkdir(cacheFolder, { recursive: true, mode: 0o700 });
  const unfinished = `${path}.${process.pid}`;
  try {
    await run("cc", ["-O2", "-static", "-Wall", "-Wextra", "-Werror", "-o", unfinished, source]);
    await rename(unfinished, path);
  } catch (error) {
    await rm(unfinished, { force: true });
    const problem = `${name}.c does not compile (is gcc installed?): ${messageOf(error)}`;
    throw new DomainError("failed_precondition", problem, {}, { cause: error });
  }
  return path;
}

/** True when a file or folder is at `path`. */
export async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

/** The source is beside this file or, when this is the compiled copy in `dist/`, in the source tree it came from. */
async function findSource(name: string): Promise<string> {
  const here = fileURLToPath(new URL(`./${name}.c`, import.meta.url));
  return (await exists(here)) ? here : here.replace("/dist/src/", "/src/");
}
