/**
 * gVisor's program runsc, for the engine gvisor: compiled from the Go modules that `runsc/go.mod` names and
 * `runsc/go.sum` holds the digests of, with a few edits (`runsc/edits.mjs`). Debian's own package is older than programs
 * with a set-user-ID bit in gVisor, and without them there is no sudo. Where it cannot be compiled the reason is kept, and
 * the other engines serve.
 */
import * as fs from "node:fs";
import { join } from "node:path";
import { run } from "./command.mjs";
import { freeBytes, hashOf, placeAtomically } from "./files.mjs";
import { provideGo } from "./go.mjs";
import { edits } from "./runsc/edits.mjs";
import { SetupError } from "./setup-error.mjs";
import { readStamp, writeStamp } from "./stamps.mjs";

const moduleName = "gvisor.dev/gvisor";
/** Writes the filters of system calls into the sources; it compiles what they are made of, edits included. */
const filtersProgram = "filters.go";
/** Of what Go compiles from, downloads included. */
const neededFreeBytes = 2 * 2 ** 30;

/** How long a failure stands before the step runs again, because other engines serve meanwhile. */
const failureStandsMs = 3_600_000;

/**
 * @typedef {{ runsc?: string, version?: string, reason?: string, atMs?: number }} RunscAsset Either the program, or why
 *   there is none. A failure has its time; an obstacle, which stands until the host changes, has none.
 */

/** @param {import("./roots.mjs").Roots} roots */
const recipeFolder = (roots) => join(roots.repository, "scripts/setup/runsc");

/** @param {import("./roots.mjs").Roots} roots */
function recipe(roots) {
  const files = ["go.mod", "go.sum", filtersProgram].map((name) => fs.readFileSync(join(recipeFolder(roots), name)));
  return hashOf({ format: 2, edits }, ...files);
}

/** The pinned version, which the program is given as its own. */
function pinnedVersion(/** @type {import("./roots.mjs").Roots} */ roots) {
  const text = fs.readFileSync(join(recipeFolder(roots), "go.mod"), "utf8");
  return /gvisor\.dev\/gvisor v(\S+)/.exec(text)?.[1] ?? "unknown";
}

/** The reason why it cannot be compiled here, or undefined. */
function obstacle(/** @type {import("./roots.mjs").Roots} */ roots) {
  if (process.arch !== "x64") return "it is compiled for x86-64 alone";
  return fs.existsSync(roots.cache) && freeBytes(roots.cache) < neededFreeBytes
    ? "compiling it needs 2 GiB of free disk for a while"
    : undefined;
}

/** The recipe with the obstacle of this host in it, so that the step runs again once the obstacle has gone. */
function hostRecipe(/** @type {import("./roots.mjs").Roots} */ roots) {
  return hashOf(recipe(roots), obstacle(roots) ?? "");
}

/** @param {import("./roots.mjs").Roots} roots */
export function currentRunsc(roots) {
  const asset = /** @type {RunscAsset | undefined} */ (readStamp(roots, "runsc", hostRecipe(roots)));
  return asset?.atMs !== undefined && Date.now() - asset.atMs > failureStandsMs ? undefined : asset;
}

/**
 * Makes `<assets>/gvisor/runsc`: minutes. A failure is kept as the reason why there is none.
 * @param {import("./roots.mjs").Roots} roots
 * @param {import("./graph.mjs").StepContext} context
 */
export async function makeRunsc(roots, context) {
  const { signal, onLine } = context;
  const reason = obstacle(roots);
  if (reason !== undefined) {
    onLine(`skipped: ${reason}`);
    return writeStamp(roots, "runsc", hostRecipe(roots), { reason });
  }
  fs.mkdirSync(roots.scratch, { recursive: true });
  const scratch = fs.mkdtempSync(join(roots.scratch, "runsc-"));
  const version = `${pinnedVersion(roots)}.${hashOf(edits).slice(0, 8)}`;
  const env = {
    CGO_ENABLED: "0",
    GOFLAGS: "-mod=readonly -modcacherw",
    GOPATH: join(scratch, "go"),
    GOCACHE: join(scratch, "cache"),
    GOTOOLCHAIN: "auto",
  };
  const remedy = "check that this machine reaches proxy.golang.org (or GOPROXY), then start again";
  const options = { cwd: scratch, env, signal, onLine, remedy };
  try {
    const go = await provideGo(roots, scratch, context);
    for (const name of ["go.mod", "go.sum", filtersProgram])
      fs.copyFileSync(join(recipeFolder(roots), name), join(scratch, name));
    await run(go, ["mod", "download", moduleName], options);
    const sources = (await run(go, ["list", "-m", "-f", "{{.Dir}}", moduleName], options)).trim();
    const edited = join(scratch, "gvisor");
    await run("cp", ["-R", "--no-preserve=mode", sources, edited], options);
    editSources(edited);
    await run(go, ["mod", "edit", `-replace=${moduleName}=./gvisor`], options);
    await run(go, ["run", filtersProgram, edited], options);
    const built = join(scratch, "runsc");
    const flags = `-s -w -X ${moduleName}/runsc/version.version=${version}`;
    const args = ["build", "-p", "2", "-trimpath", "-ldflags", flags, "-o", built];
    await run(go, [...args, `${moduleName}/runsc`], options);
    const folder = join(roots.assets, "gvisor");
    await placeAtomically(folder, (partial) => {
      fs.mkdirSync(partial, { recursive: true });
      fs.copyFileSync(built, join(partial, "runsc"));
      fs.chmodSync(join(partial, "runsc"), 0o755);
    });
    await writeStamp(roots, "runsc", hostRecipe(roots), { runsc: join(folder, "runsc"), version });
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof SetupError)) throw error;
    onLine(`failed: ${error.message}`);
    const reason = `${error.message.split("\n")[0]}; ${error.remedy}`;
    await writeStamp(roots, "runsc", hostRecipe(roots), { reason, atMs: Date.now() });
  } finally {
    fs.rmSync(scratch, { recursive: true, force: true });
  }
}

/**
 * @param {string} folder A copy of the module, because Go does not let its own be changed.
 */
function editSources(folder) {
  for (const { file, from, to } of edits) {
    const path = join(folder, file);
    const text = fs.readFileSync(path, "utf8");
    if (text.split(from).length !== 2) throw new SetupError(`${file} of gVisor is not as expected`, "this is a bug");
    fs.writeFileSync(
      path,
      text.replace(from, () => to),
    );
  }
}
