/** The folders that the set-up works with: this clone, the two storage roots, and what lies in the cache. */
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { defaultCacheDir, defaultStateDir } from "../../src/storage-roots.mjs";

/**
 * @typedef {object} Roots
 * @property {string} repository Root of this clone.
 * @property {string} state Ledger, keys, snapshots, sockets.
 * @property {string} cache Everything that can be built again.
 * @property {string} assets `<cache>/assets`: guest kernel, initramfs, root disks, and their index `assets.json`.
 * @property {string} downloads `<cache>/downloads`: Debian packages that guests are made from where there is no apt.
 * @property {string} logs `<cache>/logs`: what each step printed.
 * @property {string} scratch `<cache>/scratch`: half-made things; removed by the next set-up.
 */

/**
 * The storage roots that the environment asks for (`FIRKIN_STATE_DIR`, `FIRKIN_CACHE_DIR`).
 * @param {NodeJS.ProcessEnv} [env]
 * @returns {Roots}
 */
export function storageRoots(env = process.env) {
  const state = resolve(env.FIRKIN_STATE_DIR || defaultStateDir);
  const cache = resolve(env.FIRKIN_CACHE_DIR || defaultCacheDir);
  return {
    repository: fileURLToPath(new URL("../..", import.meta.url)).replace(/\/$/, ""),
    state,
    cache,
    assets: join(cache, "assets"),
    downloads: join(cache, "downloads"),
    logs: join(cache, "logs"),
    scratch: join(cache, "scratch"),
  };
}

/**
 * Takes `--state-dir X`, `--state-dir=X` and the same for the cache out of `args` into `env`, so that the set-up and
 * the daemon agree on where things are.
 * @param {readonly string[]} args
 * @param {NodeJS.ProcessEnv} [env]
 * @returns {string[]} the other arguments
 */
export function takeRootFlags(args, env = process.env) {
  /** @type {string[]} */
  const rest = [];
  const remaining = [...args];
  for (let arg = remaining.shift(); arg !== undefined; arg = remaining.shift()) {
    const [flag = "", inline] = arg.split(/=(.*)/s);
    if (flag !== "--state-dir" && flag !== "--cache-dir") {
      rest.push(arg);
      continue;
    }
    const value = inline ?? remaining.shift();
    if (!value) throw new Error(`${flag} needs a folder`);
    env[flag === "--state-dir" ? "FIRKIN_STATE_DIR" : "FIRKIN_CACHE_DIR"] = resolve(value);
  }
  return rest;
}
