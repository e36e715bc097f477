/** Tests of latency samples on their way to the ledger. */
import { expect, test } from "vitest";
import { createMetrics } from "../../src/metrics.ts";
import { LifecycleSamples } from "../../src/runtime/lifecycle-samples.ts";
import type { LatencySample } from "../../src/types.ts";
import { FakeDriver, FakeHost } from "../support/fakes/fake-driver.ts";
import { ManualClock } from "../support/fakes/manual-clock.ts";

test("the newest samples that a full ledger refused are written later", () => {
  const { info } = new FakeDriver({ host: new FakeHost(), machinesFolder: "/m", guest: { kind: "silent" } });
  const full = new Error("no space is left");
  const written: LatencySample[] = [];
  let isFull = true;
  const samples = new LifecycleSamples(new ManualClock(), info, createMetrics(), (some) => {
    if (isFull) throw full;
    written.push(...some);
  });
  for (let ms = 0; ms < 10_005; ms++) samples.record("ready_probe", "create", ms, null);
  expect(() => samples.flush()).toThrow(full);
  isFull = false;
  samples.record("ready_probe", "create", 10_005, null);
  samples.flush();
  samples.flush();
  expect(written.map(({ durationMs }) => durationMs)).toEqual(Array.from({ length: 10_001 }, (_, n) => n + 5));
});
