/** Runs a program as part of the set-up: own process group, output to a log, ended when the set-up is. */
import { spawn } from "node:child_process";
import { SetupError } from "./setup-error.mjs";

const KILL_AFTER_MS = 10_000;
const TAIL_LINES = 15;

/**
 * @typedef {object} RunOptions
 * @property {string} [cwd]
 * @property {NodeJS.ProcessEnv} [env] Added to this process's environment; `undefined` removes a variable.
 * @property {AbortSignal} [signal] Ends the program and everything it started.
 * @property {(line: string) => void} [onLine] Each line of output, stdout and stderr alike.
 * @property {string} [remedy] What to do when it fails.
 */

/**
 * Runs `command` to its end and returns its standard output.
 * @param {string} command
 * @param {readonly string[]} args
 * @param {RunOptions} [options]
 * @returns {Promise<string>}
 * @throws {SetupError} when it cannot start, fails or is interrupted; the message quotes the end of its output
 */
export async function run(command, args, options = {}) {
  const { cwd, env, signal, onLine, remedy } = options;
  signal?.throwIfAborted();
  // Its own group: Ctrl-C reaches this process alone, which then ends the whole tree in order.
  const child = spawn(command, args, {
    ...(cwd ? { cwd } : {}),
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
  /** @type {string[]} */
  const tail = [];
  const note = (/** @type {string} */ line) => {
    if (line.trim() === "") return;
    tail.push(line);
    if (tail.length > TAIL_LINES) tail.shift();
    onLine?.(line);
  };
  let stdout = "";
  child.stdout.setEncoding("utf8").on("data", (text) => (stdout += text));
  splitLines(child.stdout, note);
  splitLines(child.stderr.setEncoding("utf8"), note);

  const release = killGroupOnAbort(child, signal);
  try {
    await new Promise((done, fail) => {
      child.once("error", (error) => fail(new SetupError(`cannot run ${command}: ${error.message}`, remedy)));
      child.once("close", (code, by) => {
        if (code === 0) return done(undefined);
        const how = by ? `was ended by ${by}` : `ended with status ${code}`;
        fail(new SetupError(`${command} ${how}\n${tail.map((line) => `    ${line}`).join("\n")}`, remedy));
      });
    });
  } finally {
    release();
  }
  signal?.throwIfAborted();
  return stdout;
}

/**
 * @param {import("node:child_process").ChildProcess} child
 * @param {AbortSignal | undefined} signal
 * @returns {() => void} to be called when the child is gone
 */
function killGroupOnAbort(child, signal) {
  /** @type {NodeJS.Timeout | undefined} */
  let timer;
  const kill = (/** @type {NodeJS.Signals} */ how) => {
    if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
    try {
      process.kill(-child.pid, how);
    } catch (error) {
      if (/** @type {NodeJS.ErrnoException} */ (error).code !== "ESRCH") throw error;
    }
  };
  const onAbort = () => {
    kill("SIGTERM");
    timer = setTimeout(() => kill("SIGKILL"), KILL_AFTER_MS);
  };
  signal?.addEventListener("abort", onAbort, { once: true });
  return () => {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  };
}

/**
 * @param {NodeJS.ReadableStream} stream
 * @param {(line: string) => void} onLine
 */
function splitLines(stream, onLine) {
  let rest = "";
  stream.on("data", (/** @type {string} */ text) => {
    const lines = (rest + text).split(/[\r\n]+/);
    rest = lines.pop() ?? "";
    for (const line of lines) onLine(line);
  });
  stream.on("end", () => onLine(rest));
}
