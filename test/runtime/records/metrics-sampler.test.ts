import { expect, test } from "vitest";
import { MetricsSampler } from "../../../src/runtime/records/metrics-sampler.ts";
import type { Session } from "../../../src/runtime/sessions/session.ts";
import type { GuestMetrics } from "../../../src/types.ts";
import { ManualClock } from "../../support/fakes/manual-clock.ts";

const usage = { cpuCount: 2, memTotalBytes: 8, memUsedBytes: 4, memCacheBytes: 1, diskTotalBytes: 9, diskUsedBytes: 3 };

/** A session with a guest that gives these answers about its processors, one after the other. */
function sessionOf(sandboxId: string, ...ticks: (readonly [busy: number, total: number])[]): Session {
  const metrics = async (): Promise<GuestMetrics> => {
    const [cpuBusyTicks, cpuTotalTicks] = ticks.shift() ?? [0, 0];
    return { ...usage, cpuBusyTicks, cpuTotalTicks };
  };
  return { sandboxId, agent: { metrics } } as unknown as Session;
}

test("a sandbox's series goes on over a pause, and the counters from before the pause are no load", async () => {
  const clock = new ManualClock();
  const sampler = new MetricsSampler(clock, () => {});
  const before = sessionOf("i1", [0, 100], [50, 200]);
  const after = sessionOf("i1", [10, 100], [10, 200]);
  for (const session of [before, before, after, after]) {
    await sampler.sampleAll([session], () => true);
    await clock.advance(5_000);
  }
  expect(sampler.samples("i1", {}).map(({ cpuUsedPercent }) => cpuUsedPercent)).toEqual([0, 100, 20, 0]);
  const [first, second] = sampler.samples("i1", {});
  expect((second?.atMs ?? 0) - (first?.atMs ?? 0)).toBe(5_000);
  expect(sampler.samples("i1", { fromMs: second?.atMs ?? 0 })).toHaveLength(3);
});

test("the series of an ended sandbox is forgotten, a paused sandbox's is kept, and an answer counts as heard", async () => {
  const heard: string[] = [];
  const sampler = new MetricsSampler(new ManualClock(), (session) => heard.push(session.sandboxId));
  await sampler.sampleAll([sessionOf("i1", [0, 1]), sessionOf("i2", [0, 1])], () => true);
  await sampler.sampleAll([], (id) => id === "i1");
  expect(sampler.samples("i1", {})).toHaveLength(1);
  expect(sampler.samples("i2", {})).toEqual([]);
  expect(heard).toEqual(["i1", "i2"]);
});
