#!/usr/bin/env node
/**
 * `node scripts/verify/mac/daemon.mjs STATE` starts a real daemon with a state folder of its own and uses it as people
 * do: the example, a daemon that is killed and one that takes its sandbox over, pause, resume, kill. The daemon's logs
 * stay in STATE.
 */
import { execFileSync, spawn } from "node:child_process";
import * as fs from "node:fs";
import { join } from "node:path";
import { storageRoots } from "../../setup/roots.mjs";

const [state = ""] = process.argv.slice(2);
const { repository, cache } = storageRoots();
const main = join(repository, "dist/src/main.js");
const listenWithinMs = 300_000;
let starts = 0;

/**
 * @template T
 * @param {string} name
 * @param {() => T | Promise<T>} work
 */
async function step(name, work) {
  const started = performance.now();
  try {
    return await work();
  } finally {
    console.log(`${(performance.now() - started).toFixed(0).padStart(7)} ms  ${name}`);
  }
}

/** Starts a daemon and waits until it listens. */
async function startDaemon() {
  const log = join(state, `daemon-${++starts}.log`);
  const file = fs.openSync(log, "a", 0o600);
  const args = [main, "serve", "--port", "0", "--state-dir", state, "--cache-dir", cache];
  const child = spawn(process.execPath, args, { stdio: ["ignore", file, file] });
  fs.closeSync(file);
  const end = performance.now() + listenWithinMs;
  for (;;) {
    const text = fs.readFileSync(log, "utf8");
    const url = /listens on (\S+)/.exec(text)?.[1];
    if (url) return { child, url };
    if (child.exitCode !== null || child.signalCode !== null || performance.now() > end) {
      child.kill("SIGKILL");
      throw new Error(`the daemon does not listen:\n${text.slice(-4000)}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/**
 * @param {import("node:child_process").ChildProcess} child
 * @param {NodeJS.Signals} signal
 */
async function end(child, signal) {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = new Promise((resolve) => child.once("exit", resolve));
  child.kill(signal);
  await exited;
}

fs.mkdirSync(state, { recursive: true, mode: 0o700 });
const { Sandbox } = await import("e2b");
let daemon = await step("a daemon starts", startDaemon);
try {
  const apiKey = fs.readFileSync(join(state, "api-key"), "utf8").trim();
  const options = () => ({ apiKey, apiUrl: daemon.url, sandboxUrl: daemon.url, requestTimeoutMs: 180_000 });
  await step("the example", () => {
    const env = { ...process.env, E2B_API_KEY: apiKey, E2B_API_URL: daemon.url, E2B_SANDBOX_URL: daemon.url };
    execFileSync(process.execPath, [join(repository, "examples/first-sandbox.mjs")], { env, stdio: "inherit" });
  });
  const sandbox = await step("a sandbox is created", () => Sandbox.create("base", options()));
  const { sandboxId } = sandbox;
  await sandbox.commands.run("echo kept > /dev/shm/note; echo kept > /home/user/note");
  await step("the daemon is killed", () => end(daemon.child, "SIGKILL"));
  daemon = await step("the next daemon starts", startDaemon);
  const check = async (/** @type {string} */ name) => {
    const same = await step(name, () => Sandbox.connect(sandboxId, options()));
    const { stdout } = await same.commands.run("cat /dev/shm/note /home/user/note");
    if (stdout !== "kept\nkept\n") throw new Error(`${name}: the notes are ${JSON.stringify(stdout)}`);
    return same;
  };
  const adopted = await check("the sandbox was taken over");
  await step("the sandbox is paused", () => adopted.pause());
  const resumed = await check("the sandbox is resumed");
  const clock = await resumed.commands.run("date +%s");
  console.log(`the guest's clock is ${(Number(clock.stdout) - Date.now() / 1000).toFixed(1)} s ahead`);
  await step("the sandbox is killed", () => resumed.kill());
} finally {
  await step("the daemon is stopped", () => end(daemon.child, "SIGTERM"));
}
