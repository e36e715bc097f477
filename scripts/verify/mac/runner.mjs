/**
 * The runner of the Mac's report: each step is a program with a time limit and a file for its whole output. A step that
 * fails, hangs or cannot be run keeps no other step from being run, except those that need it.
 */
import { spawn } from "node:child_process";
import * as fs from "node:fs";
import { join } from "node:path";

/**
 * @typedef {"passed" | "failed" | "timed out" | "not run"} Outcome
 *
 * @typedef {object} Step
 * @property {string} name A short word, the name of the step's files.
 * @property {string} title
 * @property {string} command
 * @property {readonly string[]} args
 * @property {NodeJS.ProcessEnv} [env] Added to this process's environment.
 * @property {number} limitMs
 * @property {readonly string[]} [needs] Names of steps without which this one makes no sense.
 * @property {(output: string) => string | undefined} [notRunBecause] Reads the output of a failed step for a reason
 *   that lies in the Mac and not in firkin.
 * @property {(output: string) => string | undefined} [failedBecause] Reads the output of a step whose program ended
 *   well for what failed in it.
 *
 * @typedef {{ name: string, title: string, outcome: Outcome, ms: number, reason?: string }} Result
 */

/** A program that ignores SIGTERM gets SIGKILL this much later. */
const killAfterMs = 5000;

/**
 * Runs the steps in their order.
 * @param {readonly Step[]} steps
 * @param {string} folder Gets `<name>.log` of each step.
 * @param {(result: Result) => void} tell Called after each step.
 * @returns {Promise<Result[]>}
 */
export async function runSteps(steps, folder, tell) {
  /** @type {Result[]} */
  const results = [];
  for (const step of steps) {
    const missing = (step.needs ?? []).filter(
      (need) => results.find(({ name }) => name === need)?.outcome !== "passed",
    );
    const { name, title } = step;
    /** @type {Result} */
    const result = missing.length
      ? { name, title, outcome: "not run", ms: 0, reason: `it needs ${missing.join(", ")}` }
      : await runStep(step, join(folder, `${name}.log`));
    results.push(result);
    tell(result);
  }
  return results;
}

/**
 * @param {Step} step
 * @param {string} log
 * @returns {Promise<Result>}
 */
async function runStep({ name, title, command, args, env, limitMs, notRunBecause, failedBecause }, log) {
  const started = performance.now();
  const end = await runToEnd(command, args, { env, limitMs, log });
  const ms = Math.round(performance.now() - started);
  const output = fs.readFileSync(log, "utf8");
  if (end.lateMs !== undefined) {
    return { name, title, outcome: "timed out", ms, reason: `not over after ${Math.round(end.lateMs / 1000)} s` };
  }
  if (end.status === 0) {
    const reason = failedBecause?.(output);
    return reason === undefined
      ? { name, title, outcome: "passed", ms }
      : { name, title, outcome: "failed", ms, reason };
  }
  const reason = notRunBecause?.(output);
  if (reason !== undefined) return { name, title, outcome: "not run", ms, reason };
  return { name, title, outcome: "failed", ms, reason: `${end.problem}; ${lastLines(output)}` };
}

/** @param {string} output */
const lastLines = (output) => output.trimEnd().split("\n").slice(-3).join(" ").slice(-500);

/**
 * Runs a program in a process group of its own, which is ended as a whole when it is late.
 * @param {string} command
 * @param {readonly string[]} args
 * @param {{ env?: NodeJS.ProcessEnv | undefined, limitMs: number, log: string }} options
 * @returns {Promise<{ status: number | null, problem: string, lateMs?: number }>}
 */
function runToEnd(command, args, { env, limitMs, log }) {
  const file = fs.openSync(log, "a", 0o600);
  fs.writeSync(file, `$ ${[command, ...args].join(" ")}\n`);
  const child = spawn(command, args, {
    stdio: ["ignore", file, file],
    detached: true,
    env: { ...process.env, ...env },
  });
  return new Promise((resolve) => {
    /** @type {number | undefined} */
    let lateMs;
    const signal = (/** @type {NodeJS.Signals} */ which) => {
      if (child.pid === undefined) return;
      try {
        process.kill(-child.pid, which);
      } catch (error) {
        if (/** @type {NodeJS.ErrnoException} */ (error).code !== "ESRCH") throw error;
      }
    };
    /** @type {NodeJS.Timeout | undefined} */
    let hard;
    const late = setTimeout(() => {
      lateMs = limitMs;
      signal("SIGTERM");
      hard = setTimeout(() => signal("SIGKILL"), killAfterMs);
    }, limitMs);
    const finish = (/** @type {number | null} */ status, /** @type {string} */ problem) => {
      clearTimeout(late);
      clearTimeout(hard);
      // What the program left in its group would go on beside the next step.
      if (lateMs !== undefined) signal("SIGKILL");
      fs.closeSync(file);
      resolve(lateMs === undefined ? { status, problem } : { status, problem, lateMs });
    };
    child.once("error", (error) => {
      fs.writeSync(file, `${error.message}\n`);
      finish(127, error.message);
    });
    child.once("exit", (code, how) => finish(code, how ? `ended by ${how}` : `exit code ${code}`));
  });
}
