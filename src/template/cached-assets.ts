/** What set-up left in the cache, by name, and which state folders stand on it. */
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join, relative } from "node:path";

export interface CachedFile {
  /** Absolute path. */
  readonly name: string;
  readonly atMs: number;
}

/** Where set-up puts one file or folder for each version; the name tells. */
const places: readonly (readonly [folder: string, form: RegExp])[] = [
  ["rootfs", /^base-[0-9a-f]+\.(ext4|packages)$/],
  ["kernel", /^[\w.+~-]+_[0-9a-f]+$/],
  ["agent", /^agent-[0-9a-f]+$/],
  [".", /^initramfs-[0-9a-f]+\.cpio$/],
];

/** Every version of every asset. */
export async function listCachedAssets(cacheDir: string): Promise<CachedFile[]> {
  const found = await Promise.all(
    places.map(async ([folder, form]) => {
      const path = join(cacheDir, "assets", folder);
      const names = await readdir(path).catch(orNone);
      return Promise.all(names.filter((name) => form.test(name)).map((name) => describe(join(path, name))));
    }),
  );
  return found.flat();
}

/** The asset that a path is, or is in: kernels are folders. Undefined: it is none. */
export function cachedAssetOf(cacheDir: string, path: string): string | undefined {
  const [first = "", second, third] = relative(join(cacheDir, "assets"), path).split("/");
  if (first !== "kernel" || second === undefined || third === undefined) return undefined;
  return join(cacheDir, "assets", first, second);
}

/** Notes that the snapshots of a state folder stand on this cache. */
export async function registerCacheUser(cacheDir: string, stateDir: string): Promise<void> {
  const folder = join(cacheDir, "users");
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await writeFile(join(folder, nameOf(stateDir)), stateDir, { mode: 0o600 });
}

/** Other state folders that use the cache and are still there. */
export async function otherCacheUsers(cacheDir: string, stateDir: string): Promise<string[]> {
  const folder = join(cacheDir, "users");
  const others: string[] = [];
  for (const name of (await readdir(folder).catch(orNone)).filter((each) => each !== nameOf(stateDir))) {
    const other = await readFile(join(folder, name), "utf8");
    if (await isThere(join(other, "ledger.db"))) others.push(other);
    else await rm(join(folder, name), { force: true });
  }
  return others;
}

const nameOf = (stateDir: string) => createHash("sha256").update(stateDir).digest("hex").slice(0, 16);

async function describe(path: string): Promise<CachedFile> {
  return { name: path, atMs: (await stat(path)).mtimeMs };
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
