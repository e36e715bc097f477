/**
 * What `npm run test:real-job` builds a template of: the root of a Debian with Python and Node.js as one layer of an
 * image, wheels of Python packages, and an npm application with its packages. Guests need no network for it.
 */
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { join } from "node:path";
import { run } from "./command.mjs";
import { mmdebstrap } from "./debian.mjs";
import { hashOf, placeAtomically } from "./files.mjs";
import { installPackages } from "./packages.mjs";
import { readStamp, writeStamp } from "./stamps.mjs";

const packages = ["ca-certificates", "curl", "nodejs", "python3-pip", "sudo"];
const left = ["doc", "man", "info", "locale", "lintian"];
const wheels = ["flask==3.0.3", "numpy==1.26.4", "pandas==2.2.2"];
const application = { express: "4.21.2", typescript: "5.6.3" };
const recipe = hashOf({ PACKAGES: packages, LEFT: left, WHEELS: wheels, APPLICATION: application });
const pip = [{ name: "python3-pip", why: "downloads Python packages for a test" }];

/** @param {import("./roots.mjs").Roots} roots */
export function currentRealJob(roots) {
  return /** @type {{ folder: string } | undefined} */ (readStamp(roots, "real-job", recipe));
}

/**
 * Makes `<assets>/real-job` with `debian.tar`, `wheels` and `application`.
 * @param {import("./roots.mjs").Roots} roots
 * @param {import("./graph.mjs").StepContext} context
 */
export async function makeRealJob(roots, context) {
  const { signal, onLine } = context;
  fs.mkdirSync(roots.scratch, { recursive: true });
  const scratch = fs.mkdtempSync(join(roots.scratch, "real-job-"));
  const at = (/** @type {string} */ name) => join(scratch, name);
  try {
    if (spawnSync("python3", ["-m", "pip", "--version"]).status !== 0) await installPackages(pip, context);
    // The Python of the guest may be another one than the host's.
    const target = ["--only-binary=:all:", "--python-version=3.11", "--platform=manylinux2014_x86_64"];
    await run("python3", ["-m", "pip", "download", ...target, "--dest", at("wheels"), ...wheels], {
      ...{ signal, onLine },
      remedy: "check that pip reaches its index (python3 -m pip download six), then start again",
    });
    fs.mkdirSync(at("application"));
    const description = { name: "real-job", private: true, dependencies: application };
    fs.writeFileSync(at("application/package.json"), JSON.stringify(description));
    await run("npm", ["install", "--no-audit", "--no-fund"], {
      ...{ cwd: at("application"), signal, onLine },
      remedy: "check that npm reaches its registry (npm ping), then start again",
    });
    const slim = left.map((name) => `--dpkgopt=path-exclude=/usr/share/${name}/*`);
    await mmdebstrap(["--variant=minbase", "--dpkgopt=force-unsafe-io", ...slim, `--include=${packages.join(",")}`], {
      scratch: roots.scratch,
      target: at("debian.tar"),
      signal,
      onLine,
    });
    const folder = join(roots.assets, "real-job");
    fs.rmSync(folder, { recursive: true, force: true });
    await placeAtomically(folder, (partial) =>
      fs.cpSync(scratch, partial, { recursive: true, verbatimSymlinks: true }),
    );
    await writeStamp(roots, "real-job", recipe, { folder });
  } finally {
    fs.rmSync(scratch, { recursive: true, force: true });
  }
}
