/** A daemon killed in the middle of a build, on a real machine: the next one says so, and nothing of the build is left. */
import { readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { BuildError, Template } from "e2b";
import { expect, test } from "vitest";
import { missingForRealMachines, newStateDir, startDaemon } from "../support/daemon/real-daemon.ts";

/** VM processes that run on this state folder. */
async function machinesOf(stateDir: string): Promise<string[]> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  const lines = await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "")));
  return lines.filter((line) => line.includes("qemu") && line.includes(join(stateDir, "machines")));
}

test.skipIf(missingForRealMachines())("kill -9 in the middle of a build", { timeout: 500_000 }, async () => {
  const stateDir = await newStateDir();
  try {
    const first = await startDaemon({ stateDir });
    const options = { apiKey: first.apiKey, apiUrl: first.url, sandboxUrl: first.url };
    const template = Template().fromTemplate("base").runCmd("echo under way; sleep 600");
    const info = await Template.buildInBackground(template, "killed", options);
    const logs = async () => (await Template.getBuildStatus(info, options)).logEntries.map(({ message }) => message);
    await expect.poll(logs, { timeout: 60_000 }).toContain("under way");
    expect(await machinesOf(stateDir)).toHaveLength(1);
    await first.kill();

    await using second = await startDaemon({ stateDir });
    const again = { ...options, apiUrl: second.url, sandboxUrl: second.url };
    expect(await Template.getBuildStatus(info, again)).toMatchObject({
      status: "error",
      reason: { message: "the build was interrupted: the daemon died. Start it again." },
    });
    expect(await machinesOf(stateDir)).toEqual([]);
    expect(await readdir(join(stateDir, "machines"))).toEqual([]);
    expect(await readdir(join(stateDir, "snapshots"))).toHaveLength(1);
    const metrics = await (await fetch(`${second.url}/metrics`)).text();
    expect(metrics).toMatch(/firkin_capacity\{budget="sandboxes",kind="active"\} 0/);

    // A daemon that is told to stop cancels its builds; its client learns why when another one serves.
    const cancelled = Template.build(Template().fromTemplate("base").runCmd("sleep 600"), "stopped", again);
    const failure = cancelled.then(
      () => undefined,
      (error: unknown) => error,
    );
    await expect.poll(() => machinesOf(stateDir), { timeout: 60_000 }).toHaveLength(1);
    await second.stop();
    expect(await failure).not.toBeInstanceOf(BuildError);
    expect(await machinesOf(stateDir)).toEqual([]);
  } finally {
    await rm(stateDir, { recursive: true, force: true });
  }
});
