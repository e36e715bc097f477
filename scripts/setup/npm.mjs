/** The npm packages: whether node_modules is what package-lock.json says, and making it so. */
import { createRequire } from "node:module";
import { join } from "node:path";
import { run } from "./command.mjs";
import { readJson } from "./files.mjs";

/** Optional dependencies, whose absence is fine, are not looked for. */
const isNeeded = (/** @type {any} */ entry, /** @type {boolean} */ withDev) =>
  !entry.optional && !entry.devOptional && (withDev || !entry.dev);

/**
 * How to run npm: with this very Node.js when npm itself started us.
 * @param {readonly string[]} args
 * @returns {[command: string, args: string[]]}
 */
export function npmCommand(args) {
  const cli = process.env.npm_execpath;
  return cli?.endsWith(".js") ? [process.execPath, [cli, ...args]] : ["npm", [...args]];
}

/**
 * Whether node_modules holds all packages of package-lock.json, and its native module runs on this Node.js. npm writes
 * the list in node_modules last, when everything is in place.
 * @param {import("./roots.mjs").Roots} roots
 * @param {boolean} withDev
 */
export function npmPackagesCurrent(roots, withDev) {
  const wanted = readJson(join(roots.repository, "package-lock.json"))?.packages ?? {};
  const installed = readJson(join(roots.repository, "node_modules/.package-lock.json"))?.packages;
  if (installed === undefined) return false;
  for (const [path, entry] of Object.entries(wanted)) {
    if (path !== "" && isNeeded(entry, withDev) && installed[path]?.version !== entry.version) return false;
  }
  return sqliteRuns(roots);
}

/** @param {import("./roots.mjs").Roots} roots */
function sqliteRuns(roots) {
  try {
    const Database = createRequire(join(roots.repository, "package.json"))("better-sqlite3");
    new Database(":memory:").close();
    return true;
  } catch {
    // Compiled for another Node.js, or an installation that was interrupted: both are mended by installing again.
    return false;
  }
}

/**
 * @param {import("./roots.mjs").Roots} roots
 * @param {boolean} withDev
 * @param {import("./graph.mjs").StepContext} context
 */
export async function installNpmPackages(roots, withDev, { signal, onLine }) {
  const quiet = ["--no-audit", "--no-fund", "--loglevel=warn"];
  // Adding the packages for tests to an installation that is whole keeps what has been compiled.
  const what = withDev && npmPackagesCurrent(roots, false) ? ["install", "--no-save"] : ["ci"];
  const [command, args] = npmCommand([...what, withDev ? "--include=dev" : "--omit=dev", ...quiet]);
  await run(command, args, {
    cwd: roots.repository,
    signal,
    onLine,
    remedy: "check that npm reaches its registry (npm ping); `npm ci` in this folder shows more",
  });
}
