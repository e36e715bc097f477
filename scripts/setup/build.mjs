/** The step that makes dist/: the TypeScript sources compiled, and the files that they read beside them. */
import * as fs from "node:fs";
import { join, relative } from "node:path";
import { run } from "./command.mjs";
import { filesBelow, hashOf, placeAtomically, readJson } from "./files.mjs";

/** The files and folders that decide the content of dist/, relative to the repository. */
const sourcePaths = ["src", "routes", "migrations", "scripts", "tsconfig.json", "package-lock.json"];
/** Files that the compiled programs read as they are. */
const copiedFiles = /\.(sql|html|css|svg|js)$/;
const compiledFiles = /\.(ts|mjs)$|tsconfig[^/]*\.json$/;

/** @param {import("./roots.mjs").Roots} roots */
function sourceHash(roots) {
  const files = filesBelow(
    sourcePaths.map((name) => join(roots.repository, name)),
    (path) => compiledFiles.test(path) || copiedFiles.test(path) || path.endsWith("package-lock.json"),
  );
  return hashOf(...files.flatMap((path) => [relative(roots.repository, path), fs.readFileSync(path)]));
}

/** @param {import("./roots.mjs").Roots} roots */
export function distCurrent(roots) {
  return readJson(join(roots.repository, "dist/.stamp.json"))?.sources === sourceHash(roots);
}

/**
 * @param {import("./roots.mjs").Roots} roots
 * @param {import("./graph.mjs").StepContext} context
 */
export async function buildDist(roots, { signal, onLine }) {
  const sources = sourceHash(roots);
  const { repository } = roots;
  await placeAtomically(join(repository, "dist"), async (partial) => {
    // Without npx, which takes longer to find the compiler than the compiler takes.
    await run(
      join(repository, "node_modules/.bin/tsc"),
      ["-p", join(repository, "scripts/tsconfig.build.json"), "--outDir", partial],
      {
        cwd: repository,
        signal,
        onLine,
        remedy: "the sources do not compile; if you have not changed them, this is a bug",
      },
    );
    const copied = filesBelow(
      ["src", "routes", "migrations"].map((name) => join(repository, name)),
      (path) => copiedFiles.test(path),
    );
    for (const file of copied) {
      const target = join(partial, relative(repository, file));
      fs.mkdirSync(join(target, ".."), { recursive: true });
      fs.copyFileSync(file, target);
    }
    fs.writeFileSync(join(partial, ".stamp.json"), JSON.stringify({ sources }));
  });
}
