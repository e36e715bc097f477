/** The life of a sandbox through the unmodified SDKs: create, find, extend, expire, kill. */
import { randomUUID } from "node:crypto";
import { NotFoundError, SandboxNotFoundError } from "e2b";
import { describe, expect, test } from "vitest";
import { connection, createSandbox, generations, Sandbox, sharedDaemon, skipReason } from "../support/clients/sdk.ts";
import { reservations } from "../support/daemon/requests.ts";

describe.skipIf(skipReason)("lifecycle", () => {
  describe.each(generations)("%s", (_, sdk) => {
    test("a sandbox is created, described, connected to and killed", async () => {
      const sandbox = await sdk.Sandbox.create({
        ...connection(),
        timeoutMs: 600_000,
        metadata: { job: "a", "k 1": "v&1" },
      });
      expect(sandbox.sandboxId).toMatch(/^iaa[a-z0-9]{18}$/);
      expect(await sandbox.isRunning()).toBe(true);
      const info = await sandbox.getInfo();
      expect(info).toMatchObject({ sandboxId: sandbox.sandboxId, name: "base", metadata: { job: "a", "k 1": "v&1" } });
      expect(info).toMatchObject({ state: "running", cpuCount: 2, memoryMB: 512, envdVersion: "0.6.13" });
      expect(info.endAt.getTime() - Date.now()).toBeGreaterThan(400_000);
      const again = await sdk.Sandbox.connect(sandbox.sandboxId, connection());
      expect((await again.commands.run("echo same")).stdout).toBe("same\n");
      expect(await sandbox.kill()).toBe(true);
      expect(await sandbox.kill()).toBe(false);
      expect(await sandbox.isRunning()).toBe(false);
      await expect(sdk.Sandbox.connect(sandbox.sandboxId, connection())).rejects.toThrow(/not found|doesn't exist/i);
    });

    test("sandboxes are listed by their metadata, page by page", async () => {
      const job = randomUUID();
      const made = await Promise.all(
        ["one", "two", "three"].map((name) => createSandbox({ metadata: { job, "na me": `v&${name}` } }, sdk)),
      );
      try {
        const pages = sdk.Sandbox.list({ ...connection(), query: { metadata: { job } }, limit: 2 });
        const found: string[] = [];
        while (pages.hasNext) found.push(...(await pages.nextItems()).map(({ sandboxId }) => sandboxId));
        expect(found.sort()).toEqual(made.map(({ sandbox }) => sandbox.sandboxId).sort());
        const one = sdk.Sandbox.list({ ...connection(), query: { metadata: { job, "na me": "v&two" } } });
        expect((await one.nextItems()).map(({ sandboxId }) => sandboxId)).toEqual([made[1]?.sandbox.sandboxId]);
      } finally {
        await Promise.all(made.map((each) => each[Symbol.asyncDispose]()));
      }
    });
  });

  test("a sandbox ends when its time is up, and setTimeout moves that moment", async () => {
    await using made = await createSandbox({ timeoutMs: 600_000 });
    const { sandbox } = made;
    await sandbox.setTimeout(1_000);
    await expect.poll(() => sandbox.isRunning()).toBe(false);
    await expect(sandbox.getInfo()).rejects.toThrow(SandboxNotFoundError);
    await expect(sandbox.setTimeout(1_000)).rejects.toThrow(NotFoundError);
    await expect(sandbox.commands.run("true")).rejects.toThrow(/not running anymore/);
  });

  test("a connect extends the time of a sandbox and never shortens it", async () => {
    await using made = await createSandbox({ timeoutMs: 300_000 });
    const { sandboxId } = made.sandbox;
    const endAt = async () => (await made.sandbox.getInfo()).endAt.getTime();
    const before = await endAt();
    await Sandbox.connect(sandboxId, { ...connection(), timeoutMs: 1_000 });
    expect(await endAt()).toBe(before);
    await Sandbox.connect(sandboxId, { ...connection(), timeoutMs: 900_000 });
    expect(await endAt()).toBeGreaterThan(before + 500_000);
  });

  test("metrics of a sandbox come within seconds", async () => {
    await using made = await createSandbox();
    await expect.poll(() => made.sandbox.getMetrics()).not.toEqual([]);
    const [sample] = await made.sandbox.getMetrics();
    expect(sample).toMatchObject({ cpuCount: 2 });
    expect(sample?.memTotal).toBeGreaterThan(400 * 2 ** 20);
    expect(sample?.memUsed).toBeGreaterThan(2 ** 20);
    expect(sample?.diskTotal).toBeGreaterThan(2 ** 30);
  });

  test("20 sandboxes are created at once", async () => {
    const made = await Promise.all(Array.from({ length: 20 }, () => createSandbox()));
    try {
      const names = await Promise.all(made.map(({ sandbox }) => sandbox.commands.run("hostname")));
      expect(new Set(names.map(({ stdout }) => stdout)).size).toBe(20);
    } finally {
      await Promise.all(made.map((each) => each[Symbol.asyncDispose]()));
    }
  });

  test("every machine, socket and reservation is gone after a kill", async () => {
    const made = await createSandbox();
    await made.sandbox.kill();
    await expect.poll(() => reservations(sharedDaemon())).toBe(0);
  });
});
