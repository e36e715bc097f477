/**
 * The JavaScript kernel, which runs TypeScript as well: cells are scripts in the main context of this process, one
 * after the other. It speaks to the front over descriptor 3 (link.mjs).
 */
import { closeSync, openSync, readSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import vm from "node:vm";
import { toScript } from "./cell.mjs";
import { receive, send, sendLine } from "./link.mjs";
import { makeHelper, sendError, sendValue } from "./results.mjs";

let count = 1;
let sandboxEnvironment = {};
/** The cell that runs. */
let running;
const orders = [];

class Interrupted extends Error {
  name = "KeyboardInterrupt";
}

/** One execution: it ends with its script and that script's promise, or later if it asked for that. */
class Cell {
  #isLate = false;
  #resolve;
  #reject;
  #ended = new Promise((resolve, reject) => {
    this.#resolve = resolve;
    this.#reject = reject;
  });

  endLater() {
    this.#isLate = true;
  }

  end(report) {
    report();
    this.#resolve();
  }

  fail(error) {
    this.#reject(error);
  }

  async run(code) {
    const { script, isAsync } = toScript(code);
    const compiled = new vm.Script(script, {
      filename: `Cell [${count - 1}]`,
      importModuleDynamically: vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
    });
    this.#ended.catch(() => {});
    const value = await Promise.race([compiled.runInThisContext({ breakOnSigint: true }), this.#failed()]);
    if (this.#isLate) await this.#ended;
    else sendValue(isAsync ? value?.value : value, true);
  }

  /** Never resolves, so that only a failure wins a race. */
  #failed() {
    return new Promise((_, reject) => this.#ended.then(undefined, reject));
  }
}

async function execute({ code, variables }) {
  Object.assign(process.env, variables);
  sendLine({ type: "number_of_executions", execution_count: count });
  if (code.trim() !== "") count++;
  running = new Cell();
  globalThis.$$ = makeHelper(running);
  try {
    await running.run(code);
  } catch (error) {
    sendError(error?.code === "ERR_SCRIPT_EXECUTION_INTERRUPTED" ? new Interrupted("") : error);
  }
  running = undefined;
  for (const name of Object.keys(variables)) {
    if (name in sandboxEnvironment) process.env[name] = sandboxEnvironment[name];
    else delete process.env[name];
  }
  send("message", JSON.stringify({ done: true, exits: false }));
}

function prepare({ cwd, environment, reseed }) {
  if (cwd !== undefined) {
    try {
      process.chdir(cwd);
    } catch (error) {
      return { prepared: false, reason: error.message };
    }
    globalThis.require = createRequire(join(cwd, "cell.js"));
  }
  for (const name of Object.keys(sandboxEnvironment)) if (!(name in environment)) delete process.env[name];
  sandboxEnvironment = environment;
  Object.assign(process.env, environment);
  if (reseed) seed = freshSeed();
  return { prepared: true };
}

/** State of the generator behind `Math.random`: V8's own is the same in every sandbox that comes from one snapshot. */
let seed = freshSeed();

function freshSeed() {
  const bytes = new Uint32Array(4);
  const source = openSync("/dev/urandom", "r");
  readSync(source, new Uint8Array(bytes.buffer));
  closeSync(source);
  return bytes;
}

function next32() {
  // xoshiro128**
  const result = Math.imul(rotate(Math.imul(seed[1], 5), 7), 9) >>> 0;
  const shifted = seed[1] << 9;
  seed[2] ^= seed[0];
  seed[3] ^= seed[1];
  seed[1] ^= seed[2];
  seed[0] ^= seed[3];
  seed[2] ^= shifted;
  seed[3] = rotate(seed[3], 11);
  return result;
}

const rotate = (value, by) => (value << by) | (value >>> (32 - by));

Math.random = function random() {
  return ((next32() >>> 5) * 0x4000000 + (next32() >>> 6)) / 2 ** 53;
};

async function serve() {
  while (orders.length > 0) {
    const order = orders[0];
    if (order.do === "prepare") send("message", JSON.stringify(prepare(order)));
    else await execute(order);
    orders.shift();
  }
}

for (const [stream, kind] of [
  [process.stdout, "stdout"],
  [process.stderr, "stderr"],
]) {
  stream.write = (chunk, encoding, done) => {
    send(
      kind,
      typeof chunk === "string" ? Buffer.from(chunk, typeof encoding === "string" ? encoding : "utf8") : chunk,
    );
    const callback = typeof encoding === "function" ? encoding : done;
    if (callback) process.nextTick(callback);
    return true;
  };
}

// A failure in a timer or in a promise that nobody awaits ends the cell that runs, never the kernel.
for (const event of ["uncaughtException", "unhandledRejection"]) {
  process.on(event, (error) => {
    if (running) running.fail(error);
    else console.error("Uncaught", error);
  });
}
process.on("SIGINT", () => running?.fail(new Interrupted("")));

globalThis.require = createRequire(join(process.cwd(), "cell.js"));
receive((order) => {
  orders.push(order);
  if (orders.length === 1) void serve();
});
// What the first cell would load otherwise.
try {
  toScript("const a: number = await 1; enum B { C }; import d from 'fs'; a");
} catch {
  // A Node.js without TypeScript runs JavaScript all the same.
}
send("message", JSON.stringify({ ready: true }));
