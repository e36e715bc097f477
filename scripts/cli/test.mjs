#!/usr/bin/env node
/**
 * `npm test` sets up what is missing, then checks in order of cost: format and lint, types, dead code, the guest
 * agent compiled with sanitizers and fuzzed, and vitest's suites. `npm test -- ARGUMENT…` runs vitest alone, with
 * those arguments, after setting up what the selected tests need. The last line counts what passed, failed and was
 * skipped; each check before vitest counts as one.
 */
import { spawn } from "node:child_process";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { readJson } from "../setup/files.mjs";
import { setUp } from "../setup/plan.mjs";
import { storageRoots, takeRootFlags } from "../setup/roots.mjs";
import { currentTestTools } from "../setup/test-tools.mjs";
import { listTestFiles, stepsFor } from "./test-needs.mjs";

/** @typedef {{ passed: number, failed: number, skipped: number }} Counts */

const vitestArguments = takeRootFlags(process.argv.slice(2));
const roots = storageRoots();
const report = join(roots.repository, "node_modules/.vitest/report.json");
const program = (/** @type {string} */ name) => join(roots.repository, "node_modules/.bin", name);

const checks = [
  { title: "format and lint", command: program("biome"), args: ["ci", "."] },
  { title: "format of C", command: "npm", args: ["run", "--silent", "check:c"] },
  { title: "types", command: program("tsc"), args: ["--noEmit"] },
  { title: "types of the console's page", command: program("tsc"), args: ["-p", "scripts/tsconfig.console.json"] },
  { title: "dead code", command: program("knip"), args: ["--no-progress"] },
  // The agent is compiled with and without sanitizers, and fuzzed. Its other tests are vitest's.
  { title: "guest agent", command: "make", args: ["-C", "src/guest-agent", "-j2", "all", "asan", "fuzz"] },
];

/**
 * Runs a program in the repository, shows its output, and returns its exit status.
 * @param {string} command
 * @param {readonly string[]} args
 * @returns {Promise<number>}
 */
function show(command, args) {
  const tools = currentTestTools(roots)?.bin;
  const env = { ...process.env, PATH: [tools, process.env.PATH].filter(Boolean).join(":") };
  return new Promise((done) => {
    const child = spawn(command, args, { cwd: roots.repository, env, stdio: "inherit" });
    // A terminal's Ctrl-C reaches the child by itself; SIGTERM is passed on. Either way the child's end is awaited.
    const passOn = (/** @type {NodeJS.Signals} */ signal) => signal === "SIGTERM" && child.kill(signal);
    const signals = /** @type {const} */ (["SIGINT", "SIGTERM"]);
    for (const signal of signals) process.on(signal, passOn);
    const end = (/** @type {number} */ status) => {
      for (const signal of signals) process.off(signal, passOn);
      done(status);
    };
    child.once("error", (error) => {
      console.error(`${command}: ${error.message}`);
      end(127);
    });
    child.once("close", (code, signal) => {
      // An interrupted run has nothing to count.
      if (signal === "SIGINT" || signal === "SIGTERM") process.exit(signal === "SIGINT" ? 130 : 143);
      end(code ?? 1);
    });
  });
}

/** @returns {Promise<Counts>} */
async function runChecks() {
  const counts = { passed: 0, failed: 0, skipped: 0 };
  for (const { title, command, args } of checks) {
    console.log(`\n== ${title}`);
    const status = await show(command, args);
    console.log(status === 0 ? `✓ ${title}` : `✗ ${title}`);
    counts[status === 0 ? "passed" : "failed"]++;
  }
  return counts;
}

/** @returns {Promise<Counts>} */
async function runVitest() {
  console.log("\n== tests");
  rmSync(report, { force: true });
  const status = await show(program("vitest"), ["run", "--config", "test/vitest.config.ts", ...vitestArguments]);
  const result = readJson(report) ?? {};
  /** @type {Counts} */
  const counts = {
    passed: result.numPassedTests ?? 0,
    failed: result.numFailedTests ?? 0,
    skipped: (result.numPendingTests ?? 0) + (result.numTodoTests ?? 0),
  };
  // A test file that cannot be loaded has no tests to count, and neither has an error outside of any test.
  const broken = (result.testResults ?? []).filter((/** @type {any} */ file) => {
    return (
      file.status === "failed" && !file.assertionResults.some((/** @type {any} */ test) => test.status === "failed")
    );
  });
  counts.failed += broken.length;
  if (status !== 0 && counts.failed === 0) counts.failed = 1;
  return counts;
}

/** @type {Counts[]} */
const all = [];
const steps = stepsFor(vitestArguments, listTestFiles(roots.repository));
const setUpStatus = await setUp({ scope: { steps, withDev: true } });
if (setUpStatus > 1) process.exit(setUpStatus);
if (setUpStatus !== 0) {
  all.push({ passed: 0, failed: 1, skipped: 0 });
} else {
  if (vitestArguments.length === 0) all.push(await runChecks());
  all.push(await runVitest());
}
const sum = (/** @type {keyof Counts} */ key) => all.reduce((total, counts) => total + counts[key], 0);
console.log(`\n${sum("passed")} passed, ${sum("failed")} failed, ${sum("skipped")} skipped`);
process.exitCode = sum("failed") === 0 ? 0 : 1;
