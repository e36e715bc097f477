/** Forks and snapshots through the unmodified SDKs, on real machines. */
import { randomUUID } from "node:crypto";
import { describe, expect, test } from "vitest";
import { connection, createSandbox, generations, Sandbox, sharedDaemon, skipReason } from "../support/clients/sdk.ts";
import { post } from "../support/daemon/requests.ts";
import { count, startCounter } from "../support/guest/memory-counter.ts";

describe.skipIf(skipReason)("forks and snapshots", () => {
  test("both sides of a fork go on from the same number, and share nothing afterwards", async () => {
    await using made = await createSandbox({ metadata: { job: "fork" } });
    const { sandbox } = made;
    await startCounter(sandbox);
    for (const n of [1, 2, 3]) expect(await count(sandbox)).toBe(n);
    await sandbox.files.write("/home/user/shared", "before");
    const before = await sandbox.getInfo();
    const children = await sandbox.fork({ count: 3, timeoutMs: 600_000 });
    try {
      for (const child of children) {
        if (child instanceof Error) throw child;
        expect(await count(child)).toBe(4);
        expect(await child.files.read("/home/user/shared")).toBe("before");
        await child.files.write("/home/user/shared", child.sandboxId);
        expect((await child.commands.run("hostname")).stdout.trim()).toBe(child.sandboxId);
        expect((await child.getInfo()).metadata).toEqual({ job: "fork" });
      }
      expect([await count(sandbox), await count(sandbox)]).toEqual([4, 5]);
      expect(await sandbox.files.read("/home/user/shared")).toBe("before");
      expect((await sandbox.getInfo()).endAt).toEqual(before.endAt);
    } finally {
      for (const child of children) if (!(child instanceof Error)) await child.kill();
    }
  });

  test("a command that streams while its sandbox is forked goes on", async () => {
    await using made = await createSandbox();
    const handle = await made.sandbox.commands.run("for i in $(seq 30); do echo $i; sleep 0.1; done", {
      background: true,
    });
    const [child] = await made.sandbox.fork({ timeoutMs: 600_000 });
    const expected = `${Array.from({ length: 30 }, (_, at) => at + 1).join("\n")}\n`;
    expect((await handle.wait()).stdout).toBe(expected);
    if (child && !(child instanceof Error)) await child.kill();
  });

  test.each(generations)("%s: a snapshot is a template with the memory of its sandbox", async (_, sdk) => {
    await using made = await createSandbox({}, sdk);
    const { sandbox } = made;
    await startCounter(sandbox);
    for (const n of [1, 2]) expect(await count(sandbox)).toBe(n);
    const name = `s${randomUUID().slice(0, 8)}`;
    const snapshot = await sandbox.createSnapshot({ name });
    expect(snapshot.names).toEqual([`local/${name}:default`]);
    expect(await count(sandbox)).toBe(3);
    const listed = await sandbox.listSnapshots().nextItems();
    expect(listed.map(({ snapshotId }) => snapshotId)).toEqual([snapshot.snapshotId]);
    for (const reference of [snapshot.snapshotId, name]) {
      const copy = await sdk.Sandbox.create(reference, { timeoutMs: 600_000, ...connection(), envs: { NEW: "1" } });
      expect(await count(copy)).toBe(3);
      expect((await copy.commands.run("echo $NEW; hostname")).stdout).toBe(`1\n${copy.sandboxId}\n`);
      await copy.kill();
    }
    expect(await sdk.Sandbox.deleteSnapshot(snapshot.snapshotId, connection())).toBe(true);
    expect(await sdk.Sandbox.deleteSnapshot(snapshot.snapshotId, connection())).toBe(false);
    await expect(sdk.Sandbox.create(name, connection())).rejects.toThrow(/not found/);
  });

  test("a follow-up goes on in a new sandbox, and its origin can still be resumed", async () => {
    await using made = await createSandbox();
    const { sandbox } = made;
    await startCounter(sandbox);
    expect(await count(sandbox)).toBe(1);
    await sandbox.pause();
    const order = { sandboxID: sandbox.sandboxId, timeout: 120 };
    const answer = await post(sharedDaemon(), "/sandboxes/followups", order);
    expect(answer.status).toBe(201);
    const { sandboxID, continuationReason } = (await answer.json()) as Record<string, string>;
    expect(continuationReason).toBe("stopped");
    const followup = await Sandbox.connect(sandboxID ?? "", connection());
    expect(await count(followup)).toBe(2);
    await followup.kill();
    expect(await count(await sandbox.connect())).toBe(2);
  });
});
