#!/usr/bin/env node
/**
 * `node scripts/verify/mac-files.mjs` runs the set-up of a Mac as far as it goes where Apple's framework boots no
 * machine: the npm packages, dist/, the signed helper and the kernel for guests. It then checks that the Mac's own
 * tar turns an archive into one for an initramfs, as guest jobs need it.
 */
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bsdtar } from "../setup/guest-job.mjs";
import { helperPath } from "../setup/helper.mjs";
import { currentKernel } from "../setup/kernel.mjs";
import { setUpOrExit } from "../setup/plan.mjs";
import { storageRoots, takeRootFlags } from "../setup/roots.mjs";
import { guestArchitecture } from "../setup/steps-guest.mjs";

takeRootFlags(process.argv.slice(2));
if (process.platform !== "darwin") {
  console.error(`mac-files: this is ${process.platform}; scripts/verify/guest-files.mjs is for Linux`);
  process.exit(2);
}
await setUpOrExit({ scope: { steps: ["build", "helper", "guest-kernel"] } });
const roots = storageRoots();
const kernel = currentKernel(roots, guestArchitecture);
if (!kernel) throw new Error("the set-up has ended, but there is no kernel for guests");
const header = fs.readFileSync(kernel.vmlinuz).toString("latin1", 56, 60);
if (header !== "ARM\u0064") throw new Error(`${kernel.vmlinuz} is no uncompressed arm64 Image`);
const helper = execFileSync(helperPath(roots), ["--version"], { encoding: "utf8" }).trim();
const files = repackedFiles(join(roots.repository, "src/guest-agent"));
console.log(JSON.stringify({ helper, kernel: kernel.version, modules: kernel.modules.length, files }, null, 2));

/**
 * Packs a folder as a tar archive, turns that into a cpio archive, and compares what both list.
 * @param {string} folder
 * @returns {number} how many files both list
 */
function repackedFiles(folder) {
  const scratch = fs.mkdtempSync(join(tmpdir(), "fk-"));
  try {
    const [tar, cpio] = [join(scratch, "a.tar"), join(scratch, "a.cpio")];
    execFileSync(bsdtar, ["-cf", tar, "-C", folder, "."]);
    execFileSync(bsdtar, ["-cf", cpio, "--format=newc", `@${tar}`]);
    const [before = "", after = ""] = [tar, cpio].map((path) => {
      return execFileSync(bsdtar, ["-tf", path], { encoding: "utf8" });
    });
    if (before !== after) throw new Error(`tar lists\n${before}\nand cpio\n${after}`);
    return before.trim().split("\n").length;
  } finally {
    fs.rmSync(scratch, { recursive: true, force: true });
  }
}
