#!/usr/bin/env node
/**
 * `node scripts/cli/run-built.mjs FILE …` brings everything up to date, then runs dist/FILE, a tool for development.
 */
import { setUpOrExit } from "../setup/plan.mjs";
import { takeRootFlags } from "../setup/roots.mjs";
import { runDist } from "../setup/run-dist.mjs";

const [file, ...args] = takeRootFlags(process.argv.slice(2));
if (file === undefined) {
  console.error("usage: node scripts/cli/run-built.mjs FILE [ARGUMENT…]   (FILE is relative to dist/)");
  process.exit(2);
}
await setUpOrExit({ scope: "bench" });
await runDist(file, args);
