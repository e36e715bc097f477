/** Running a compiled program of dist/ in this process, as if it had been started by itself. */
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { storageRoots } from "./roots.mjs";

/**
 * @param {string} file Relative to dist/, such as `src/main.js`.
 * @param {readonly string[]} args
 */
export async function runDist(file, args) {
  const path = join(storageRoots().repository, "dist", file);
  process.argv = [process.execPath, path, ...args];
  await import(pathToFileURL(path).href);
}
