/** Pauses without memory through the unmodified SDKs, on real machines: the disk is kept, and the guest boots again. */
import { describe, expect, test } from "vitest";
import { connection, createSandbox, generations, Sandbox, sharedDaemon, skipReason } from "../support/clients/sdk.ts";
import { post } from "../support/daemon/requests.ts";

const bootId = "cat /proc/sys/kernel/random/boot_id";
const postShared = (path: string, body: object) => post(sharedDaemon(), path, body);

describe.skipIf(skipReason)("pause without memory", () => {
  describe.each(generations)("%s", (_, sdk) => {
    test("files stay, processes and memory do not; id, token, environment and user are as before", async () => {
      await using made = await createSandbox({ envs: { MINE: "1" } }, sdk);
      const { sandbox } = made;
      const before = (await sandbox.commands.run(bootId)).stdout;
      await sandbox.commands.run(
        "head -c 3000000 /dev/urandom > ~/big; sha256sum ~/big > ~/sum; echo 1 > /dev/shm/lost",
      );
      await sandbox.commands.run("sleep 1000", { background: true, timeoutMs: 0 });
      expect(await sandbox.pause({ keepMemory: false })).toBe(true);
      expect((await sandbox.getInfo()).state).toBe("paused");
      const again = await sdk.Sandbox.connect(sandbox.sandboxId, { ...connection(), timeoutMs: 300_000 });
      expect(again.sandboxId).toBe(sandbox.sandboxId);
      // The handle from before has the old token, which still works.
      const { stdout } = await sandbox.commands.run(`${bootId}; echo $MINE $E2B_SANDBOX_ID; id -un; pwd; hostname`);
      const [bootIdNow, envs, user, folder, hostname] = stdout.split("\n");
      expect(bootIdNow).not.toBe(before.trim());
      expect([envs, user, folder, hostname]).toEqual([
        `1 ${sandbox.sandboxId}`,
        "user",
        "/home/user",
        sandbox.sandboxId,
      ]);
      expect((await again.commands.run("sha256sum -c ~/sum")).stdout).toContain("OK");
      expect(await again.files.exists("/dev/shm/lost")).toBe(false);
      expect(await again.commands.list()).toEqual([]);
    });
  });

  test("a booted sandbox is paused with its memory like any other, and a follow-up of a disk boots", async () => {
    await using made = await createSandbox();
    const { sandbox } = made;
    const sandboxID = sandbox.sandboxId;
    await sandbox.files.write("/home/user/first", "1");
    // Nothing else syncs the disk, and to boot from the disk of a memory snapshot is like a power cut.
    await sandbox.commands.run("sync");
    await sandbox.pause();
    expect((await postShared(`/sandboxes/${sandboxID}/resume`, { timeout: 300, memory: false })).status).toBe(201);
    expect(await sandbox.files.read("/home/user/first")).toBe("1");
    const { stdout: boot } = await sandbox.commands.run(bootId);
    await sandbox.commands.run("echo kept > /dev/shm/kept");
    await sandbox.pause();
    await sandbox.connect();
    expect((await sandbox.commands.run(`${bootId}; cat /dev/shm/kept`)).stdout).toBe(`${boot}kept\n`);
    await sandbox.commands.run("echo 2 > ~/second");
    expect((await postShared(`/sandboxes/${sandboxID}/pause`, { memory: false, reason: "exited" })).status).toBe(204);
    const answer = await postShared("/sandboxes/followups", { sandboxID, timeout: 300 });
    const followup = (await answer.json()) as { sandboxID: string; continuationReason: string };
    expect([answer.status, followup.continuationReason]).toEqual([201, "exited"]);
    const next = await Sandbox.connect(followup.sandboxID, connection());
    try {
      expect((await next.commands.run("cat ~/first ~/second; hostname")).stdout).toBe(`12\n${followup.sandboxID}\n`);
    } finally {
      await next.kill();
    }
  });
});
