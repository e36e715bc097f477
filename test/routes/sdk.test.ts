/** E2B's own SDK, unmodified, against the control plane over real HTTP: the two generations in the field. */
import * as current from "e2b";
import * as v1Routes from "e2b-v1-routes";
import { describe, expect, test } from "vitest";
import { DomainError } from "../../src/errors.ts";
import { apiKey, type ControlPlane, openControlPlane } from "../support/daemon/control-plane.ts";

const generations = [
  ["2.51.0", current],
  ["2.45.0", v1Routes as unknown as typeof current],
] as const;

async function connectionTo(plane: ControlPlane) {
  const url = await plane.app.listen({ host: "127.0.0.1", port: 0 });
  return { apiKey, apiUrl: url, sandboxUrl: url, retries: 0 };
}

describe.each(generations)("e2b %s", (_version, { Sandbox, RateLimitError, AuthenticationError }) => {
  test("creates, describes, connects, extends and kills", async () => {
    await using plane = openControlPlane();
    const connection = await connectionTo(plane);
    const sandbox = await Sandbox.create("base", {
      ...connection,
      timeoutMs: 60_000,
      metadata: { job: "a" },
      envs: { A: "1" },
    });
    expect(plane.runtime.created).toMatchObject([{ timeoutMs: 60_000, metadata: { job: "a" }, envs: { A: "1" } }]);
    const info = await sandbox.getInfo();
    expect(info).toMatchObject({
      sandboxId: sandbox.sandboxId,
      name: "base",
      metadata: { job: "a" },
      state: "running",
    });
    expect(info.endAt.getTime() - info.startedAt.getTime()).toBe(60_000);
    const again = await Sandbox.connect(sandbox.sandboxId, { ...connection, timeoutMs: 120_000 });
    expect(again.sandboxId).toBe(sandbox.sandboxId);
    await sandbox.setTimeout(30_000);
    const { startedAt, endAt } = await sandbox.getInfo();
    expect(endAt.getTime() - startedAt.getTime()).toBe(30_000);
    expect(await sandbox.kill()).toBe(true);
    expect(await sandbox.kill()).toBe(false);
  });

  test("creates with every default", async () => {
    await using plane = openControlPlane();
    await Sandbox.create(await connectionTo(plane));
    expect(plane.runtime.created).toMatchObject([{ template: { name: "base", tag: undefined }, timeoutMs: 300_000 }]);
  });

  test("lists page by page, and finds by metadata", async () => {
    await using plane = openControlPlane();
    const connection = await connectionTo(plane);
    const ids: string[] = [];
    for (let at = 0; at < 5; at += 1) {
      plane.runtime.nowMs += 1000;
      const metadata = { "k 1": at === 2 ? "v&1=ü" : "other" };
      ids.unshift((await Sandbox.create("base", { ...connection, metadata })).sandboxId);
    }
    const pages = Sandbox.list({ ...connection, limit: 2 });
    const seen: string[] = [];
    while (pages.hasNext) seen.push(...(await pages.nextItems()).map(({ sandboxId }) => sandboxId));
    expect(seen).toEqual(ids);
    const found = Sandbox.list({
      ...connection,
      query: { metadata: { "k 1": "v&1=ü" }, state: ["running", "paused"] },
    });
    expect(await found.nextItems()).toMatchObject([{ sandboxId: ids[2], metadata: { "k 1": "v&1=ü" } }]);
    expect(found.hasNext).toBe(false);
  });

  test("reads metrics", async () => {
    await using plane = openControlPlane();
    const sandbox = await Sandbox.create(await connectionTo(plane));
    const sample = { cpuCount: 2, cpuUsedPercent: 50, memUsedBytes: 1, memTotalBytes: 2, memCacheBytes: 3 };
    plane.runtime.samples.set(sandbox.sandboxId, [{ ...sample, atMs: 1000, diskUsedBytes: 4, diskTotalBytes: 5 }]);
    expect(await sandbox.getMetrics()).toMatchObject([{ cpuUsedPct: 50, memUsed: 1, diskTotal: 5 }]);
  });

  test("turns refusals into its own errors", async () => {
    await using plane = openControlPlane();
    const connection = await connectionTo(plane);
    await expect(Sandbox.connect("iaa1", connection)).rejects.toThrow(/iaa1/);
    expect(await Sandbox.kill("iaa1", connection)).toBe(false);
    await expect(Sandbox.create("nope", connection)).rejects.toThrow("404: template 'nope' not found");
    await expect(Sandbox.create({ ...connection, timeoutMs: 25 * 3_600_000 })).rejects.toThrow(
      "400: Timeout cannot be greater than 24 hours",
    );
    await expect(Sandbox.create({ ...connection, network: { denyOut: ["1.2.3.4"] } })).rejects.toThrow(
      "400: The option network.denyOut is not supported",
    );
    const wrongKey = Sandbox.create({ ...connection, apiKey: `e2b_${"1".repeat(40)}` });
    await expect(wrongKey).rejects.toThrow(AuthenticationError);
    plane.runtime.nextError = new DomainError("capacity_exhausted", "you have reached the maximum");
    await expect(Sandbox.create(connection)).rejects.toThrow(RateLimitError);
  });
});

test("the SDK tries again by itself when there was no room", async () => {
  await using plane = openControlPlane();
  const { retries: _none, ...connection } = await connectionTo(plane);
  plane.runtime.nextError = new DomainError("capacity_exhausted", "you have reached the maximum");
  const sandbox = await current.Sandbox.create(connection);
  expect(plane.runtime.created).toHaveLength(1);
  expect(await sandbox.kill()).toBe(true);
});
