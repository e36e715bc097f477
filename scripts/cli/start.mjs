#!/usr/bin/env node
/** `npm start`: sets up everything that is missing, then serves. */
import { setUpOrExit } from "../setup/plan.mjs";
import { takeRootFlags } from "../setup/roots.mjs";
import { runDist } from "../setup/run-dist.mjs";

const args = takeRootFlags(process.argv.slice(2));
await setUpOrExit({ scope: "all" });
await runDist("src/main.js", ["serve", ...args]);
