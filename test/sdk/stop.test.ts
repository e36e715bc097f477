/** Stopping a sandbox on a real machine: its processes may end in their own way, and those that do not are killed. */
import { describe, expect, test } from "vitest";
import { api, createSandbox, sharedDaemon, skipReason } from "../support/clients/sdk.ts";
import { post } from "../support/daemon/requests.ts";

describe.skipIf(skipReason)("stop", () => {
  /** Runs a command that does `atTerm` at SIGTERM. Gives its sandbox, its end, and a way to stop the sandbox. */
  async function running(atTerm: string) {
    const { sandbox } = await createSandbox();
    const script = `trap "${atTerm}" TERM; echo ready; while :; do sleep 0.1; done`;
    const handle = await sandbox.commands.run(script, { background: true, timeoutMs: 0 });
    const end = handle.wait().catch((error: unknown) => error);
    await expect.poll(() => handle.stdout).toBe("ready\n");
    const stop = async (deadlineMs: number) =>
      (await post(sharedDaemon(), `/sandboxes/${sandbox.sandboxId}/stop`, { deadlineMs })).status;
    return { sandbox, end, stop };
  }

  test("a command ends in its own way, one that will not is killed, and then the sandbox is no more", async () => {
    const [polite, rude] = await Promise.all([running("echo farewell; exit 7"), running("")]);
    expect(await Promise.all([polite.stop(120_000), polite.stop(120_000), rude.stop(100)])).toEqual([204, 204, 204]);
    expect(await polite.end).toMatchObject({ exitCode: 7, stdout: "ready\nfarewell\n" });
    expect(await rude.end).toMatchObject({ name: "CommandExitError" });
    expect(await Promise.all([polite.sandbox.kill(), rude.sandbox.kill()])).toEqual([false, false]);
    // A stop is counted when its machine is gone, and the answer does not wait for that.
    const metrics = async () => (await api("/metrics")).text();
    await expect.poll(metrics).toMatch(/firkin_sandboxes_ended_total\{reason="stopped"\} [1-9]/);
  });
});
