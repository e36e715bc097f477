/** Building of small C programs: compiled into the cache when first needed, once for each version of their source. */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { access, mkdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { DomainError, messageOf } from "../errors.ts";

const run = promisify(execFile);

export interface ToolSource {
  /** `import.meta.url` of the module that stands beside the source. */
  readonly beside: string;
  /** File name of the C source. */
  readonly source: string;
  /** Headers that it includes, beside it. */
  readonly headers?: readonly string[];
  /** `library`: to be preloaded into another program. Default: a static program. */
  readonly kind?: "program" | "library";
}

/**
 * The path of the compiled program or library.
 * @throws DomainError `failed_precondition` when it does not compile
 */
export async function buildTool(tool: ToolSource, cacheFolder: string): Promise<string> {
  const { source, headers = [], kind = "program" } = tool;
  const paths = await Promise.all([source, ...headers].map((name) => findSource(tool.beside, name)));
  const hash = createHash("sha256");
  for (const path of paths) hash.update(await readFile(path));
  const path = join(cacheFolder, `${source.replace(/\.c$/, "")}-${hash.digest("hex").slice(0, 16)}`);
  if (await exists(path)) return path;
  await mkdir(cacheFolder, { recursive: true, mode: 0o700 });
  const unfinished = `${path}.${process.pid}`;
  const form = kind === "library" ? ["-shared", "-fPIC"] : ["-static"];
  try {
    await run("cc", ["-O2", ...form, "-Wall", "-Wextra", "-Werror", "-o", unfinished, paths[0] ?? ""]);
    await rename(unfinished, path);
  } catch (error) {
    await rm(unfinished, { force: true });
    const problem = `${source} does not compile (is gcc installed?): ${messageOf(error)}`;
    throw new DomainError("failed_precondition", problem, {}, { cause: error });
  }
  return path;
}

/** True when there is something at `path`. */
export async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

/** Beside the module, or, when that is the compiled copy in `dist/`, in the source tree it came from. */
async function findSource(beside: string, name: string): Promise<string> {
  const here = fileURLToPath(new URL(`./${name}`, beside));
  return (await exists(here)) ? here : here.replace("/dist/src/", "/src/");
}
