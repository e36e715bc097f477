/**
 * The engine store: copies of engines with everything that they load, one folder for each version, in the state folder. A
 * process in the jail sees its engine's folder as its root. And an update of the host's packages takes nothing away: a
 * snapshot is restored by the very engine that made it.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { chmod, copyFile, link, mkdir, readdir, realpath, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import { DomainError, messageOf } from "../../errors.ts";
import { exists } from "../build-tool.ts";

const run = promisify(execFile);

/** What makes up an engine. */
export interface EngineParts {
  /** `qemu`, `network` … */
  readonly name: string;
  readonly version: string;
  /** Absolute paths of programs and of what they load at run time by name; their libraries are found. */
  readonly programs: readonly string[];
  /** Other files, by their absolute path. */
  readonly files: readonly string[];
  /** Files of ours, and where the process sees them. */
  readonly added?: readonly { readonly source: string; readonly path: string }[];
}

export interface StoredEngine {
  readonly name: string;
  readonly version: string;
  /** Holds `usr`, `lib` … as the process sees them. */
  readonly folder: string;
}

/** What a store holds: an engine, or what is left of one that was not finished. */
interface StoreEntry {
  readonly folder: string;
  /** Wall clock, when it was made. */
  readonly atMs: number;
}

/** `NAME_VERSION_DIGEST`. */
const folderName = /^([a-z]+)_([^_]+)_([0-9a-f]{12})$/;

/**
 * Copies an engine into the store unless it is there.
 * @param folders stores, each a copy of the one before by hard links where that can be; the last one is what is used
 * @throws DomainError `failed_precondition` when a part of it is missing
 */
export async function storeEngine(folders: readonly string[], parts: EngineParts): Promise<StoredEngine> {
  const files = await filesOf(parts);
  const digest = createHash("sha256");
  for (const { source, path } of files) {
    const { size, mtimeMs } = await stat(source);
    digest.update(`${path}\0${size}\0${mtimeMs}\n`);
  }
  const name = `${parts.name}_${parts.version}_${digest.digest("hex").slice(0, 12)}`;
  let from = files;
  let folder = "";
  for (const store of folders) {
    folder = join(store, name);
    await fill(folder, from);
    from = files.map(({ path }) => ({ source: join(folder, path), path }));
  }
  return { name: parts.name, version: parts.version, folder };
}

/** Makes a folder of the store whole, or leaves it as it is. */
async function fill(folder: string, files: readonly PlacedFile[]): Promise<void> {
  if (await exists(folder)) return;
  const partial = `${folder}.${process.pid}.partial`;
  await rm(partial, { recursive: true, force: true });
  try {
    for (const { source, path } of files) {
      const target = join(partial, path);
      await mkdir(dirname(target), { recursive: true, mode: 0o755 });
      // Files of the host are copied, because an update may write into them; those of a store never change.
      if (source.endsWith(`/${basename(folder)}${path}`) && (await tryLink(source, target))) continue;
      await copyFile(source, target);
      await chmod(target, 0o555);
    }
    await rename(partial, folder);
  } catch (error) {
    await rm(partial, { recursive: true, force: true });
    if (await exists(folder)) return;
    const problem = `${folder} cannot be made: ${messageOf(error)}`;
    throw new DomainError("failed_precondition", problem, {}, { cause: error });
  }
}

/** False where the two are on different file systems. */
async function tryLink(source: string, target: string): Promise<boolean> {
  try {
    await link(source, target);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EXDEV") return false;
    throw error;
  }
}

/** Every engine of this name in the store. */
export async function listEngines(storeFolder: string, name: string): Promise<StoredEngine[]> {
  const entries = await readdir(storeFolder).catch(() => []);
  return entries.flatMap((entry) => {
    const match = folderName.exec(entry);
    if (match?.[1] !== name || match[2] === undefined) return [];
    return [{ name, version: match[2], folder: join(storeFolder, entry) }];
  });
}

/** Everything of these names that is in a store, half-made or half-removed things too. */
export async function listStore(storeFolder: string, names: readonly string[]): Promise<StoreEntry[]> {
  const entries = await readdir(storeFolder).catch(() => []);
  const own = entries.filter((entry) => {
    const [, name] = folderName.exec(entry.replace(/(\.\d+)?\.partial$/, "")) ?? [];
    return name !== undefined && names.includes(name);
  });
  return Promise.all(
    own.map(async (entry) => {
      const folder = join(storeFolder, entry);
      return { folder, atMs: (await stat(folder)).mtimeMs };
    }),
  );
}

/** Removes an engine from its store: as a whole, so that a daemon that dies meanwhile leaves no half of one. */
export async function removeStored(folder: string): Promise<void> {
  const partial = `${folder}.${process.pid}.partial`;
  await rename(folder, partial);
  await rm(partial, { recursive: true, force: true });
}

interface PlacedFile {
  readonly source: string;
  /** As the process sees it. */
  readonly path: string;
}

async function filesOf({ programs, files, added = [] }: EngineParts): Promise<PlacedFile[]> {
  const loaded = await Promise.all(programs.map(librariesOf));
  const paths = new Set([...programs, ...files, ...loaded.flat()]);
  const own = await Promise.all([...paths].sort().map(async (path) => ({ source: await realpath(path), path })));
  return [...own, ...added];
}

/** What the dynamic loader loads for a program, the loader itself included. Nothing for a static one. */
async function librariesOf(program: string): Promise<string[]> {
  // Without what the daemon itself was told to preload, and in the language that is read here.
  const env = { PATH: process.env.PATH, LANG: "C" };
  const { stdout } = await run("ldd", [program], { env }).catch((error: { stdout?: string; stderr?: string }) => {
    if (/not a dynamic executable|statically linked/.test(`${error.stdout}${error.stderr}`)) return { stdout: "" };
    throw new DomainError("failed_precondition", `ldd ${program} failed: ${messageOf(error)}`);
  });
  return stdout.split("\n").flatMap((line) => {
    if (line.includes("not found")) {
      throw new DomainError("failed_precondition", `${basename(program)} lacks a library: ${line.trim()}`);
    }
    const path = /(?:=> )?(\/\S+) \(0x/.exec(line)?.[1];
    return path === undefined ? [] : [path];
  });
}
