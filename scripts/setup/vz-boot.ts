/**
 * The program that boots one machine on Apple's framework and waits until it has powered itself off, for the guest
 * jobs of a Mac's set-up: `node dist/scripts/setup/vz-boot.js HELPER FOLDER ORDER`, with the JSON of the helper's
 * `start` as ORDER. Unlike the daemon's helpers, this helper is not detached, so it ends with this process's group.
 */
import { spawn } from "node:child_process";
import { join } from "node:path";
import { messageOf } from "../../src/errors.ts";
import { HelperClient } from "../../src/machine/vz/helper-client.ts";
import { identitySchema, type MachineState, type StartOrder } from "../../src/machine/vz/helper-messages.ts";
import { checkSocketPaths, controlSocketName } from "../../src/machine/vz/helper-process.ts";

const connectDeadlineMs = 10_000;
/** A start waits for the host's lock while other machines save or restore. */
const startDeadlineMs = 300_000;
const expectedStates: ReadonlySet<MachineState> = new Set(["starting", "running", "stopping"]);

async function bootOnce(folder: string, order: StartOrder): Promise<void> {
  const client = await HelperClient.connect(join(folder, controlSocketName), { deadlineMs: connectDeadlineMs });
  await client.request({ op: "start", ...order }, identitySchema, startDeadlineMs);
  await new Promise<void>((resolve, reject) => {
    client.onState((state, detail) => {
      if (state === "stopped") resolve();
      else if (!expectedStates.has(state))
        reject(new Error(`the machine is ${state}: ${detail ?? "the helper gives no reason"}`));
    });
    void client.closed.then(reject);
  });
}

const [helper = "", folder = "", order = ""] = process.argv.slice(2);
checkSocketPaths(folder);
const child = spawn(helper, [`${folder}/`], { stdio: "inherit" });
child.once("error", (error) => {
  throw error;
});
try {
  await bootOnce(folder, JSON.parse(order));
} catch (error) {
  console.error(`firkin-vz: ${messageOf(error)}`);
  process.exitCode = 1;
} finally {
  child.kill("SIGKILL");
}
