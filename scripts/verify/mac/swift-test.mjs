#!/usr/bin/env node
/**
 * `node scripts/verify/mac/swift-test.mjs [build]` runs the Swift package's tests, or builds it, with the tools that
 * `xcode-select` names, Xcode's or the command line tools alone. Tools that cannot say why, and that is no failure.
 */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { storageRoots } from "../../setup/roots.mjs";
import { askSwift, askSystem, swiftTestArguments } from "../../setup/swift-tools.mjs";
import { missingTestLibrary } from "./steps.mjs";

const packageFolder = join(storageRoots().repository, "helper-swift");
const developerFolder = askSystem("xcode-select", ["--print-path"]).output.trim();
const { detail, remedy } = askSwift();
console.log(`Swift ${detail}`);
if (remedy !== undefined) {
  console.log(`not run: ${remedy}`);
  process.exit(0);
}
const args =
  process.argv[2] === "build"
    ? ["build", "--package-path", packageFolder]
    : swiftTestArguments(packageFolder, developerFolder);
const { status, stdout, stderr } = spawnSync("swift", args, { encoding: "utf8", maxBuffer: 2 ** 28 });
process.stdout.write(`${stdout ?? ""}${stderr ?? ""}`);
const reason = status === 0 ? undefined : missingTestLibrary(`${stdout}${stderr}`);
if (reason !== undefined) console.log(`not run: ${reason}`);
process.exitCode = reason === undefined ? (status ?? 1) : 0;
