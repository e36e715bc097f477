#!/usr/bin/env node
/**
 * The command `firkin` (`npm start` is `firkin serve`). It may call the set-up and the doctor; what needs npm
 * packages is done by dist/src/main.js, after the set-up has made that.
 */
import { asksForHelp, commandHelp, commands, help, unknownCommand } from "../../src/help.mjs";
import { doctor } from "../doctor/doctor.mjs";
import { servingScope, setUpOrExit } from "../setup/plan.mjs";
import { takeRootFlags } from "../setup/roots.mjs";
import { runDist } from "../setup/run-dist.mjs";
import { forgetAssets } from "../setup/upgrade.mjs";
import { addsDisk, addTemplate } from "./add-template.mjs";

const args = takeRootFlags(process.argv.slice(2));
const [first = "help", ...rest] = args[0] === "help" && args[1] ? [args[1], "--help"] : args;
const name = first === "templates" ? "template" : first;
const command = commands.find((each) => each.name === name);

if (name === "help" || name.startsWith("-")) {
  process.stdout.write(help);
  process.exitCode = name === "help" || asksForHelp(args) ? 0 : 2;
} else if (command === undefined) {
  process.stderr.write(unknownCommand(name));
  process.exitCode = 2;
} else if (asksForHelp(rest) && !command.settings) {
  process.stdout.write(commandHelp(command, ""));
} else {
  await run(name, rest);
}

/**
 * @param {string} name
 * @param {readonly string[]} args
 */
async function run(name, args) {
  switch (name) {
    case "setup":
      if (args.includes("--upgrade")) forgetAssets();
      return setUpOrExit({ scope: servingScope(machinesFor(args)) });
    case "doctor":
      process.exitCode = (await doctor()) ? 0 : 1;
      return;
    default:
      if (name === "template" && addsDisk(args)) return addTemplate(args);
      await setUpOrExit({
        scope: name === "serve" && !asksForHelp(args) ? servingScope(machinesFor(args)) : "programs",
      });
      await runDist("src/main.js", [name, ...args]);
  }
}

/**
 * The scope of what machines take on the engine that the daemon will run.
 * @param {readonly string[]} args
 * @returns {"gvisor" | "machines"}
 */
function machinesFor(args) {
  const at = args.findIndex((arg) => arg === "--engine" || arg.startsWith("--engine="));
  const given = at < 0 ? process.env.FIRKIN_ENGINE : (args[at]?.split("=")[1] ?? args[at + 1]);
  if (given === "gvisor") return given;
  // With `auto` gVisor is tried, which only root can run.
  const isTried = (given === undefined || given === "auto") && process.platform === "linux" && process.getuid?.() === 0;
  return isTried ? "gvisor" : "machines";
}
