/**
 * Programs for tests alone. They are kept beside the assets, because installed ones would run as services.
 */
import * as fs from "node:fs";
import { join } from "node:path";
import { run } from "./command.mjs";
import { filesBelow, hashOf, placeAtomically } from "./files.mjs";
import { readStamp, writeStamp } from "./stamps.mjs";

// skopeo wants two libraries that few hosts have; a program of musl stands for those of Alpine.
const packages = ["prometheus", "docker-registry", "skopeo", "libgpgme11", "libassuan0", "musl", "musl-dev"];
const programs = ["prometheus", "promtool", "docker-registry"];

/** Scripts that begin with the folder of the tools in `$tools`. */
const scripts = {
  skopeo: 'LD_LIBRARY_PATH="$tools/lib" exec "$tools/libexec/skopeo" "$@"',
  // A C compiler for musl; `-print-file-name=libc.so` says where that is.
  "musl-cc": `case $1 in -print*) exec gcc -B"$tools/musl/" "$@" ;; esac
exec gcc -nostdinc -isystem "$tools/musl/include" -nostdlib -no-pie -fno-pie -fno-stack-protector \\
  "$tools/musl/crt1.o" "$tools/musl/crti.o" "$@" -L"$tools/musl" -l:libc.so "$tools/musl/crtn.o" \\
  -Wl,-dynamic-linker,/lib/ld-musl-x86_64.so.1`,
};
const recipe = hashOf({ PACKAGES: packages, PROGRAMS: programs, SCRIPTS: scripts });

/** @param {import("./roots.mjs").Roots} roots */
export function currentTestTools(roots) {
  return /** @type {{ bin: string } | undefined} */ (readStamp(roots, "test-tools", recipe));
}

/**
 * Takes the programs out of the distribution's packages into `<assets>/test-tools`.
 * @param {import("./roots.mjs").Roots} roots
 * @param {import("./graph.mjs").StepContext} context
 */
export async function makeTestTools(roots, { signal, onLine }) {
  fs.mkdirSync(roots.scratch, { recursive: true });
  const scratch = fs.mkdtempSync(join(roots.scratch, "test-tools-"));
  const remedy = "check that apt reaches its mirror (apt-get update), then start again";
  const download = () =>
    run("apt-get", ["-o", "APT::Sandbox::User=root", "download", ...packages], {
      cwd: scratch,
      signal,
      onLine,
      remedy,
    });
  try {
    try {
      await download();
    } catch (error) {
      signal.throwIfAborted();
      onLine(error instanceof Error ? error.message : String(error));
      await run("apt-get", ["update", "-o", "DPkg::Lock::Timeout=300"], { signal, onLine, remedy });
      await download();
    }
    for (const archive of filesBelow([scratch], (path) => path.endsWith(".deb"))) {
      await run("dpkg-deb", ["--extract", archive, join(scratch, "tree")], { signal, onLine });
    }
    const tools = join(roots.assets, "test-tools", recipe.slice(0, 12));
    await placeAtomically(tools, (partial) => arrange(join(scratch, "tree"), partial));
    await writeStamp(roots, "test-tools", recipe, { bin: join(tools, "bin") });
  } finally {
    fs.rmSync(scratch, { recursive: true, force: true });
  }
}

/**
 * @param {string} tree What the packages have.
 * @param {string} tools The folder to fill.
 */
function arrange(tree, tools) {
  const from = (/** @type {string[]} */ ...parts) => join(tree, "usr", ...parts);
  const to = (/** @type {string[]} */ ...parts) => join(tools, ...parts);
  for (const folder of ["bin", "lib", "libexec"]) fs.mkdirSync(to(folder), { recursive: true });
  for (const program of programs) fs.copyFileSync(from("bin", program), to("bin", program));
  fs.copyFileSync(from("bin/skopeo"), to("libexec/skopeo"));
  fs.cpSync(from("lib/x86_64-linux-gnu"), to("lib"), { recursive: true, verbatimSymlinks: true });
  fs.cpSync(from("lib/x86_64-linux-musl"), to("musl"), { recursive: true });
  fs.cpSync(from("include/x86_64-linux-musl"), to("musl/include"), { recursive: true });
  fs.copyFileSync(join(tree, "lib/x86_64-linux-musl/libc.so"), to("musl/libc.so"));
  for (const [name, text] of Object.entries(scripts)) {
    const script = `#!/bin/sh\ntools=$(dirname "$(dirname "$(readlink -f "$0")")")\n${text}\n`;
    fs.writeFileSync(to("bin", name), script, { mode: 0o755 });
  }
}
