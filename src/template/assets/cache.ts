/** The cache of guest assets: the files that set-up left there, and the state folders that need them. */
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, realpath, rm, stat, writeFile } from "node:fs/promises";
import { isAbsolute, join, relative } from "node:path";

export interface CachedFile {
  /** Absolute path. */
  readonly name: string;
  readonly atMs: number;
}

/** The folders in which set-up keeps a file or folder for each version, and the form of its name. */
const places: readonly (readonly [folder: string, form: RegExp])[] = [
  ["rootfs", /^(base|code-interpreter)-[0-9a-f]+\.(ext4|packages)$/],
  ["kernel", /^[\w.+~-]+_[0-9a-f]+$/],
  ["agent", /^agent-[0-9a-f]+$/],
  ["images", /^disk-[0-9a-f]+\.ext4$/],
  [".", /^initramfs-[0-9a-f]+\.cpio$/],
];

/**
 * The folder of the assets, with links followed. A cache may share the assets of another cache through a link, and both
 * have to name the same file in the same way.
 */
export function assetsFolderOf(cacheDir: string): Promise<string> {
  return realpath(join(cacheDir, "assets"));
}

/** Every version of every asset. */
export async function listCachedAssets(assetsFolder: string): Promise<CachedFile[]> {
  const found = await Promise.all(
    places.map(async ([folder, form]) => {
      const path = join(assetsFolder, folder);
      const names = await readdir(path).catch(orNone);
      return Promise.all(names.filter((name) => form.test(name)).map((name) => describe(join(path, name))));
    }),
  );
  return found.flat();
}

/**
 * The name of the asset that a path lies in, with links followed; kernels are folders. A name that is no path, such as
 * a snapshot's id, stays as it is.
 */
export async function cachedNameOf(assetsFolder: string, path: string): Promise<string> {
  if (!isAbsolute(path)) return path;
  const real = await realpath(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return path;
    throw error;
  });
  const [first = "", second, third] = relative(assetsFolder, real).split("/");
  return first === "kernel" && second && third ? join(assetsFolder, first, second) : real;
}

/** Notes that the snapshots of a state folder need these assets, and forgets state folders that are gone. */
export async function registerCacheUser(assetsFolder: string, stateDir: string): Promise<void> {
  const folder = join(assetsFolder, "users");
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await writeFile(join(folder, nameOf(stateDir)), stateDir, { mode: 0o600 });
  await otherCacheUsers(assetsFolder, stateDir);
}

/** The other state folders that use the assets and still exist. */
export async function otherCacheUsers(assetsFolder: string, stateDir: string): Promise<string[]> {
  const folder = join(assetsFolder, "users");
  const others: string[] = [];
  for (const name of (await readdir(folder).catch(orNone)).filter((each) => each !== nameOf(stateDir))) {
    // Another starting daemon may remove the file at the same time.
    const other = await readFile(join(folder, name), "utf8").catch(orNone);
    if (typeof other === "string" && (await isThere(join(other, "ledger.db")))) others.push(other);
    else await rm(join(folder, name), { force: true });
  }
  return others;
}

const nameOf = (stateDir: string) => createHash("sha256").update(stateDir).digest("hex").slice(0, 16);

/** The disk of an image is as old as its last use, which is noted in the file beside it. */
async function describe(path: string): Promise<CachedFile> {
  const { mtimeMs } = await stat(path);
  const use = await stat(path.replace(/\.ext4$/, ".json")).catch(() => undefined);
  return { name: path, atMs: Math.max(mtimeMs, use?.mtimeMs ?? mtimeMs) };
}

async function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    (error: NodeJS.ErrnoException) => error.code !== "ENOENT",
  );
}

function orNone(error: NodeJS.ErrnoException): string[] {
  if (error.code === "ENOENT") return [];
  throw error;
}
