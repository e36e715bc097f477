/**
 * Running a program as a part of the set-up: in its own process group, with its output in a log, and ended with the
 * set-up.
 */
import { spawn } from "node:child_process";
import { SetupError } from "./setup-error.mjs";

const killAfterMs = 10_000;
const defaultTailLines = 15;

/**
 * A shell script that runs a program and ends its whole process group when this process goes away, even by SIGKILL,
 * because descriptor 3 then reads end of file. Otherwise a killed set-up would leave an `npm ci` behind that fights
 * with the next one.
 */
const guardedScript = `
"$@" 3<&- &
program=$!
(read -r _ <&3; kill -KILL -$$) >/dev/null 2>&1 &
guard=$!
exec 3<&-
wait $program
status=$?
kill $guard
exit $status`;

/**
 * @typedef {object} RunOptions
 * @property {string} [cwd]
 * @property {NodeJS.ProcessEnv} [env] Added to this process's environment; `undefined` removes a variable.
 * @property {AbortSignal} [signal] Ends the program and everything it started.
 * @property {(line: string) => void} [onLine] Each line of output, stdout and stderr alike.
 * @property {string} [remedy] What the user can do when the program fails.
 * @property {number} [tailLines] How many of its last lines the error quotes. Default 15.
 */

/**
 * Runs `command` to its end and returns its standard output.
 * @param {string} command
 * @param {readonly string[]} args
 * @param {RunOptions} [options]
 * @returns {Promise<string>}
 * @throws {SetupError} when the program cannot start, fails or is interrupted; the message quotes the end of its output
 */
export async function run(command, args, options = {}) {
  const { cwd, env, signal, onLine, remedy, tailLines = defaultTailLines } = options;
  signal?.throwIfAborted();
  // In a group of its own, so that Ctrl-C reaches this process alone, which then ends the whole tree in order.
  const child = spawn("sh", ["-c", guardedScript, "sh", command, ...args], {
    ...(cwd ? { cwd } : {}),
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe", "pipe"],
    detached: true,
  });
  /** @type {string[]} */
  const tail = [];
  const note = (/** @type {string} */ line) => {
    if (line.trim() === "") return;
    tail.push(line);
    if (tail.length > tailLines) tail.shift();
    onLine?.(line);
  };
  let stdout = "";
  const [, out, err] = /** @type {import("node:stream").Readable[]} */ (child.stdio);
  out?.setEncoding("utf8").on("data", (text) => (stdout += text));
  for (const stream of [out, err]) if (stream) splitLines(stream.setEncoding("utf8"), note);

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
    timer = setTimeout(() => kill("SIGKILL"), killAfterMs);
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
