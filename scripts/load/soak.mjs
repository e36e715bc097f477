#!/usr/bin/env node
/** `npm run soak` brings everything up to date, then runs test/soak/main.ts. */
import { spawn } from "node:child_process";
import { setUpOrExit } from "../setup/plan.mjs";
import { storageRoots, takeRootFlags } from "../setup/roots.mjs";

const args = takeRootFlags(process.argv.slice(2));
await setUpOrExit({ scope: "bench" });
const child = spawn(process.execPath, ["--import", "tsx", "test/soak/main.ts", ...args], {
  cwd: storageRoots().repository,
  stdio: "inherit",
});
child.once("exit", (code) => {
  process.exitCode = code ?? 1;
});
