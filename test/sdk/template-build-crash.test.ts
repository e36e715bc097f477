/** A daemon killed in the middle of a build, on a real machine: the next one says so, and the build leaves nothing. */
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { BuildError, Template } from "e2b";
import { expect, test } from "vitest";
import { runningEngines } from "../support/daemon/engine-processes.ts";
import { missingForRealMachines, newStateDir, startDaemon } from "../support/daemon/real-daemon.ts";
import { connectionTo, reservations } from "../support/daemon/requests.ts";

test.skipIf(missingForRealMachines())("a build cut off by kill -9 has its reason", { timeout: 500_000 }, async () => {
  const stateDir = await newStateDir();
  try {
    const first = await startDaemon({ stateDir });
    const options = connectionTo(first);
    const template = Template().fromTemplate("base").runCmd("echo under way; sleep 600");
    const info = await Template.buildInBackground(template, "killed", options);
    const logs = async () => (await Template.getBuildStatus(info, options)).logEntries.map(({ message }) => message);
    await expect.poll(logs, { timeout: 60_000 }).toContainEqual(expect.stringMatching(/under way$/));
    expect(runningEngines(stateDir)).toHaveLength(1);
    await first.kill();

    await using second = await startDaemon({ stateDir });
    const again = connectionTo(second);
    expect(await Template.getBuildStatus(info, again)).toMatchObject({
      status: "error",
      reason: { message: "the build was interrupted: the daemon died. Start it again." },
    });
    expect(runningEngines(stateDir)).toEqual([]);
    expect(await readdir(join(stateDir, "machines"))).toEqual([]);
    expect(await readdir(join(stateDir, "snapshots"))).toHaveLength(1);
    expect(await reservations(second)).toBe(0);

    // A daemon that is told to stop cancels its builds; its client learns why when another one serves.
    const cancelled = Template.build(Template().fromTemplate("base").runCmd("sleep 600"), "stopped", again);
    const failure = cancelled.then(
      () => undefined,
      (error: unknown) => error,
    );
    await expect.poll(() => runningEngines(stateDir), { timeout: 60_000 }).toHaveLength(1);
    await second.stop();
    expect(await failure).not.toBeInstanceOf(BuildError);
    expect(runningEngines(stateDir)).toEqual([]);
  } finally {
    await rm(stateDir, { recursive: true, force: true });
  }
});
