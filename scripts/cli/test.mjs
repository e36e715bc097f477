#!/usr/bin/env node
/**
 * `npm test` sets up what is missing, then checks in order of cost: format and lint, types, dead code, the guest
 * agent compiled with sanitizers and fuzzed, and vitest's suites. `npm test -- ARGUMENT…` runs vitest alone, with
 * those arguments, after setting up what the selected tests need. The end names what failed, whichever lane it was in,
 * and the last line counts what passed, failed and was skipped; each check before vitest counts as one.
 */
import { spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync, rmSync } from "node:fs";
import { join, relative } from "node:path";
import { stripVTControlCharacters } from "node:util";
import { readJson } from "../setup/files.mjs";
import { setUp } from "../setup/plan.mjs";
import { storageRoots, takeRootFlags } from "../setup/roots.mjs";
import { currentTestTools } from "../setup/test-tools.mjs";
import { listTestFiles, stepsFor } from "./test-needs.mjs";

/** @typedef {{ passed: number, failures: string[], skipped: number }} Outcome `failures`: what failed, a text each. */

const vitestArguments = takeRootFlags(process.argv.slice(2));
const roots = storageRoots();
const reports = join(roots.repository, "node_modules/.vitest");
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
 * @param {{ env?: Record<string, string>, log?: string }} [options] `log`: a file that takes the output, and is shown when
 *   the program has ended, because another one shows its own meanwhile
 * @returns {Promise<number>}
 */
function show(command, args, { env: variables = {}, log } = {}) {
  const tools = currentTestTools(roots)?.bin;
  const env = { ...process.env, ...variables, PATH: [tools, process.env.PATH].filter(Boolean).join(":") };
  return new Promise((done) => {
    const output = log === undefined ? undefined : openSync(log, "w");
    const child = spawn(command, args, {
      cwd: roots.repository,
      env,
      stdio: output === undefined ? "inherit" : ["ignore", output, output],
    });
    if (output !== undefined) closeSync(output);
    // A terminal's Ctrl-C reaches the child by itself; SIGTERM is passed on. Either way the child's end is awaited.
    const passOn = (/** @type {NodeJS.Signals} */ signal) => signal === "SIGTERM" && child.kill(signal);
    const signals = /** @type {const} */ (["SIGINT", "SIGTERM"]);
    for (const signal of signals) process.on(signal, passOn);
    const end = (/** @type {number} */ status) => {
      for (const signal of signals) process.off(signal, passOn);
      if (log !== undefined) process.stdout.write(readFileSync(log));
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

/** @returns {Promise<Outcome>} */
async function runChecks() {
  /** @type {Outcome} */
  const outcome = { passed: 0, failures: [], skipped: 0 };
  for (const { title, command, args } of checks) {
    console.log(`\n== ${title}`);
    const status = await show(command, args);
    console.log(status === 0 ? `✓ ${title}` : `✗ ${title}`);
    if (status === 0) outcome.passed++;
    else outcome.failures.push(`the check "${title}" ended with status ${status}`);
  }
  return outcome;
}

/**
 * @param {string} name Of the report.
 * @param {readonly string[]} args
 * @param {boolean} [besideAnother] Its output is shown at its end.
 * @returns {Promise<Outcome>}
 */
async function runVitest(name, args, besideAnother = false) {
  const report = join(reports, `${name}.json`);
  mkdirSync(reports, { recursive: true });
  rmSync(report, { force: true });
  const log = besideAnother ? { log: join(reports, `${name}.log`) } : {};
  const options = { env: { FIRKIN_TEST_REPORT: report }, ...log };
  const status = await show(program("vitest"), ["run", "--config", "test/vitest.config.ts", ...args], options);
  const result = readJson(report) ?? {};
  const failures = (result.testResults ?? []).flatMap(failuresOf);
  // An error outside of any test is in the output alone.
  if (status !== 0 && failures.length === 0) failures.push(`vitest's run "${name}" ended with status ${status}`);
  return {
    passed: result.numPassedTests ?? 0,
    failures,
    skipped: (result.numPendingTests ?? 0) + (result.numTodoTests ?? 0),
  };
}

/**
 * @param {any} file A test file in vitest's JSON report.
 * @returns {string[]}
 */
function failuresOf(file) {
  const path = relative(roots.repository, file.name);
  const failed = file.assertionResults.filter((/** @type {any} */ test) => test.status === "failed");
  // A test file that cannot be loaded has no tests to count.
  if (file.status === "failed" && failed.length === 0) return [`${path}: ${beginningOf(file.message)}`];
  return failed.map((/** @type {any} */ test) => `${path} > ${test.fullName}: ${beginningOf(test.failureMessages[0])}`);
}

/** @param {string | undefined} message */
function beginningOf(message = "") {
  return stripVTControlCharacters(message).split("\n").slice(0, 4).join("\n    ").slice(0, 1000);
}

/**
 * All tests, in three lanes at the same time, because guests are waited for most of the time. The longest one, of
 * machines on the chosen engine, shows its output as it goes. A lane's runs of vitest come one after the other.
 */
async function runAllTests() {
  const lanes = [[["machines"]], [["unit", "tools", "qemu"]], [["other engines"], ["interpreter"]]];
  const outcomes = await Promise.all(
    lanes.map(async (runs, lane) => {
      const outcomes = [];
      for (const projects of runs) {
        const name = projects[0]?.replace(" ", "-") ?? "report";
        const only = projects.map((project) => `--project=${project}`);
        outcomes.push(await runVitest(name, only, lane > 0));
      }
      return outcomes;
    }),
  );
  return outcomes.flat();
}

/** @type {Outcome[]} */
const all = [];
const steps = stepsFor(vitestArguments, listTestFiles(roots.repository));
const setUpStatus = await setUp({ scope: { steps, withDev: true } });
if (setUpStatus > 1) process.exit(setUpStatus);
if (setUpStatus !== 0) {
  all.push({ passed: 0, failures: ["the set-up"], skipped: 0 });
} else {
  const isWhole = vitestArguments.length === 0;
  if (isWhole) all.push(await runChecks());
  console.log("\n== tests");
  all.push(...(isWhole ? await runAllTests() : [await runVitest("report", vitestArguments)]));
}
const failures = all.flatMap((outcome) => outcome.failures);
if (failures.length > 0) console.log(`\n== failed\n${failures.map((failure) => `✗ ${failure}`).join("\n")}`);
const sum = (/** @type {"passed" | "skipped"} */ key) => all.reduce((total, outcome) => total + outcome[key], 0);
console.log(`\n${sum("passed")} passed, ${failures.length} failed, ${sum("skipped")} skipped`);
process.exitCode = failures.length === 0 ? 0 : 1;
