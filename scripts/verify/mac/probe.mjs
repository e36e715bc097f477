#!/usr/bin/env node
/**
 * `node scripts/verify/mac/probe.mjs HELPER FOLDER [--without-agent]` runs the helper's probe in a new folder with the
 * files that the set-up made, and keeps the guests' consoles there. Saved states and disks are removed at the end.
 */
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { filesBelow } from "../../setup/files.mjs";
import { currentKernel } from "../../setup/kernel.mjs";
import { storageRoots } from "../../setup/roots.mjs";
import { guestArchitecture } from "../../setup/steps-guest.mjs";
import { probeFiles } from "./steps.mjs";

const [helper = "", folder = "", ...options] = process.argv.slice(2);
const roots = storageRoots();
const bare = options.includes("--without-agent");
const kernel = bare ? currentKernel(roots, guestArchitecture)?.vmlinuz : undefined;
if (bare && kernel === undefined) throw new Error("there is no kernel for guests: the set-up makes it");
fs.rmSync(folder, { recursive: true, force: true });
const files = probeFiles(roots, folder, kernel);
const { status, signal } = spawnSync(helper, ["probe", folder, ...files, ...options], { stdio: "inherit" });
for (const path of filesBelow([folder], (path) => path.endsWith(".log"))) {
  console.log(`== ${path}\n${fs.readFileSync(path, "utf8").slice(-4000)}`);
}
fs.rmSync(folder, { recursive: true, force: true });
if (signal) console.error(`the probe was ended by ${signal}`);
process.exitCode = status ?? 1;
