#!/usr/bin/env node
/** The command `firkin`: what of it needs no npm packages is done here, the rest by dist/src/main.js. */
import { doctor } from "../doctor/doctor.mjs";
import { setUpOrExit } from "../setup/plan.mjs";
import { takeRootFlags } from "../setup/roots.mjs";
import { runDist } from "../setup/run-dist.mjs";
import { forgetAssets } from "../setup/upgrade.mjs";

const HELP = `firkin: the E2B API on this machine, every sandbox a microVM restored from a snapshot

  npx firkin serve [settings]     set up what is missing, then serve (as npm start does)
  npx firkin env                  print what to export, for: eval "$(npx firkin env)"
  npx firkin tls [settings]       make certificates for --domain, and say how to trust and resolve its names
  npx firkin doctor               check every requirement, and say what to do about each that is not met
  npx firkin setup [--upgrade]    set up what is missing; --upgrade: with today's kernel and packages in the guest
  npx firkin version
  npx firkin help                 this text; serve --help lists the settings

Every command takes --state-dir DIR and --cache-dir DIR (or FIRKIN_STATE_DIR, FIRKIN_CACHE_DIR).
`;

const [command = "help", ...args] = takeRootFlags(process.argv.slice(2));
switch (command) {
  case "serve":
    await setUpOrExit({ scope: args.includes("--help") ? "programs" : "all" });
    await runDist("src/main.js", [command, ...args]);
    break;
  case "env":
  case "tls":
  case "version":
    await setUpOrExit({ scope: "programs" });
    await runDist("src/main.js", [command, ...args]);
    break;
  case "setup":
    if (args.includes("--upgrade")) forgetAssets();
    await setUpOrExit({ scope: "all" });
    break;
  case "doctor":
    process.exitCode = (await doctor()) ? 0 : 1;
    break;
  case "help":
  case "--help":
  case "-h":
    process.stdout.write(HELP);
    break;
  default:
    process.stderr.write(`firkin: there is no command ${JSON.stringify(command)}\n\n${HELP}`);
    process.exitCode = 2;
}
