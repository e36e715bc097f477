/** Stopping a sandbox, on a real machine: its processes may say farewell, and those that will not go are made to. */
import { describe, expect, test } from "vitest";
import { api, createSandbox, skipReason } from "../support/sdk.ts";

describe.skipIf(skipReason)("stop", () => {
  test("a command ends in its own way, one that will not is killed, and then the sandbox is no more", async () => {
    const { sandbox } = await createSandbox();
    const run = (script: string) => sandbox.commands.run(script, { background: true, timeoutMs: 0 });
    const polite = await run('trap "echo farewell; exit 7" TERM; echo ready; while :; do sleep 0.1; done');
    const rude = await run('trap "" TERM; echo ready; while :; do sleep 0.1; done');
    const ends = Promise.all([polite, rude].map((handle) => handle.wait().catch((error: unknown) => error)));
    await expect.poll(() => [polite.stdout, rude.stdout], { timeout: 20_000 }).toEqual(["ready\n", "ready\n"]);
    const stop = () =>
      api(`/sandboxes/${sandbox.sandboxId}/stop`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ deadlineMs: 1_000 }),
      });
    const answers = await Promise.all([stop(), stop()]);
    expect(answers.map(({ status }) => status)).toEqual([204, 204]);
    expect(await ends).toMatchObject([{ exitCode: 7, stdout: "ready\nfarewell\n" }, { name: "CommandExitError" }]);
    expect(await sandbox.kill()).toBe(false);
    // Counted when the machine is gone, which nobody waits for.
    const metrics = async () => (await api("/metrics")).text();
    await expect.poll(metrics, { timeout: 20_000 }).toMatch(/firkin_sandboxes_ended_total\{reason="stopped"\} [1-9]/);
  });
});
