/**
 * The program that boots one machine on Apple's framework and waits until it has powered itself off, for the guest
 * jobs of a Mac's set-up: `node dist/scripts/setup/vz-boot.js HELPER FOLDER ORDER DEADLINE_MS`, with the JSON of the
 * helper's `start` as ORDER. Unlike the daemon's helpers, this helper is not detached, so it ends with this process's
 * group. What fails is said with the end of the guest's console.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { messageOf } from "../../src/errors.ts";
import { HelperClient } from "../../src/machine/vz/helper-client.ts";
import { identitySchema, type MachineState, type StartOrder } from "../../src/machine/vz/helper-messages.ts";
import { checkSocketPaths, controlSocketName } from "../../src/machine/vz/helper-process.ts";

const connectDeadlineMs = 10_000;
/** A start waits for the host's lock while other machines save or restore. */
const startDeadlineMs = 300_000;
/** A helper ends its machine within this time, and is killed otherwise. */
const endDeadlineMs = 13_000;
const lookMs = 1000;
const consoleLines = 40;
const expectedStates: ReadonlySet<MachineState> = new Set(["starting", "running", "stopping"]);
/** What the job's init (`hooks/guest-job.sh`) says once in each boot. */
const beginning = "firkin: the guest job begins";

const readConsole = ({ serialLog }: StartOrder) =>
  serialLog !== undefined && existsSync(serialLog) ? readFileSync(serialLog, "utf8") : "";

/** Rejects when the guest has booted a second time, which is no end for the framework. */
async function watchForReset(order: StartOrder, signal: AbortSignal): Promise<never> {
  for (;;) {
    await delay(lookMs, undefined, { signal });
    if (readConsole(order).split(beginning).length > 2) throw new Error("the guest has reset itself and begun anew");
  }
}

async function lateAfter(deadlineMs: number, signal: AbortSignal): Promise<never> {
  await delay(deadlineMs, undefined, { signal });
  throw new Error(`the guest job is not over after ${Math.round(deadlineMs / 1000)} s`);
}

/** A helper that somebody asked to stop its machine ends well, and may end before it has told of the stop. */
async function hasEndedWell(child: ChildProcess): Promise<boolean> {
  if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
  return child.exitCode === 0;
}

async function bootOnce(folder: string, order: StartOrder, child: ChildProcess): Promise<void> {
  const client = await HelperClient.connect(join(folder, controlSocketName), { deadlineMs: connectDeadlineMs });
  await client.request({ op: "start", ...order }, identitySchema, startDeadlineMs);
  await new Promise<void>((resolve, reject) => {
    client.onState((state, detail) => {
      if (state === "stopped") resolve();
      else if (!expectedStates.has(state))
        reject(new Error(`the machine is ${state}: ${detail ?? "the helper gives no reason"}`));
    });
    void client.closed.then(async (error) => ((await hasEndedWell(child)) ? resolve() : reject(error)));
  });
}

const [helper = "", folder = "", text = "", deadline = ""] = process.argv.slice(2);
const order = JSON.parse(text) as StartOrder;
checkSocketPaths(folder);
const child = spawn(helper, [`${folder}/`], { stdio: "inherit" });
child.once("error", (error) => {
  throw error;
});
const over = new AbortController();
try {
  const { signal } = over;
  await Promise.race([
    bootOnce(folder, order, child),
    watchForReset(order, signal),
    lateAfter(Number(deadline), signal),
  ]);
} catch (error) {
  console.error(`firkin-vz: ${messageOf(error)}`);
  const lines = readConsole(order).trimEnd().split("\n").slice(-consoleLines);
  console.error(`the guest's console ends:\n${lines.join("\n") || "(nothing)"}`);
  process.exitCode = 1;
} finally {
  over.abort();
  const kill = setTimeout(() => child.kill("SIGKILL"), endDeadlineMs);
  // The helper ends its machine first.
  if (child.exitCode === null && child.signalCode === null && child.kill("SIGTERM")) await once(child, "exit");
  clearTimeout(kill);
}
process.exit();
