/** The npm packages: whether node_modules agrees with package-lock.json, and installing them. */
import { createRequire } from "node:module";
import { join } from "node:path";
import { run } from "./command.mjs";
import { readJson } from "./files.mjs";

/** Whether an entry of package-lock.json must be installed. Optional dependencies may be missing. */
const isNeeded = (/** @type {any} */ entry, /** @type {boolean} */ withDev) =>
  !entry.optional && !entry.devOptional && (withDev || !entry.dev);

/**
 * The command that runs npm, with this same Node.js where npm has started this process.
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
    // It is compiled for another Node.js, or its installation was interrupted. Installing again mends both.
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
  // Adding the packages for development to a whole installation keeps what has been compiled.
  const what = withDev && npmPackagesCurrent(roots, false) ? ["install", "--no-save"] : ["ci"];
  const [command, args] = npmCommand([...what, withDev ? "--include=dev" : "--omit=dev", ...quiet]);
  await run(command, args, {
    cwd: roots.repository,
    signal,
    onLine,
    remedy:
      "check that npm reaches its registry (npm ping), and that g++, make and python3 can compile better-sqlite3; " +
      "`npm ci` in this folder shows more",
  });
}
