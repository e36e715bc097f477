import fc from "fast-check";
import { expect, test } from "vitest";
import { nearestRank, recordSamples, samplesOfSandbox, summarizeSamples } from "../../src/ledger/samples.ts";
import type { LatencySample } from "../../src/types.ts";
import { memoryLedger } from "./support.ts";

function sample(durationMs: number, changes: Partial<LatencySample> = {}): LatencySample {
  const span = "ready_probe";
  return {
    span,
    scenario: "create",
    durationMs,
    engine: "vz",
    acceleration: "none",
    sandboxId: "i1",
    atMs: 1,
    ...changes,
  };
}

test("percentiles are durations that were measured, with n beside them", () => {
  const ledger = memoryLedger();
  const hundred = Array.from({ length: 100 }, (_, index) => sample(((index * 37) % 100) + 1));
  recordSamples(ledger, hundred);
  expect(summarizeSamples(ledger)).toEqual([
    {
      span: "ready_probe",
      scenario: "create",
      engine: "vz",
      acceleration: "none",
      n: 100,
      p50Ms: 50,
      p90Ms: 90,
      p95Ms: 95,
      p99Ms: 99,
    },
  ]);
});

test("each span, engine and acceleration has its own line, and one sample is all its percentiles", () => {
  const ledger = memoryLedger();
  expect(summarizeSamples(ledger)).toEqual([]);
  recordSamples(ledger, [sample(2.5), sample(3, { engine: "qemu", acceleration: "tcg" })]);
  recordSamples(ledger, [sample(4, { engine: "qemu", acceleration: "kvm" }), sample(5, { span: "kill_delete" })]);
  const lines = summarizeSamples(ledger).map((s) => [s.span, s.engine, s.acceleration, s.n, s.p50Ms, s.p99Ms]);
  expect(lines).toEqual([
    ["kill_delete", "vz", "none", 1, 5, 5],
    ["ready_probe", "qemu", "kvm", 1, 4, 4],
    ["ready_probe", "qemu", "tcg", 1, 3, 3],
    ["ready_probe", "vz", "none", 1, 2.5, 2.5],
  ]);
});

test("each scenario of a span has a line of its own", () => {
  const ledger = memoryLedger();
  recordSamples(ledger, [sample(1), sample(2, { scenario: "pool" }), sample(3, { scenario: "resume" }), sample(4)]);
  expect(summarizeSamples(ledger).map(({ scenario, n, p99Ms }) => [scenario, n, p99Ms])).toEqual([
    ["create", 2, 4],
    ["pool", 1, 2],
    ["resume", 1, 3],
  ]);
});

test("only the newest are kept, of each key apart", () => {
  const ledger = memoryLedger();
  recordSamples(ledger, [sample(1_000, { span: "kill_delete" })], 10);
  for (let batch = 0; batch < 5; batch += 1) {
    recordSamples(
      ledger,
      Array.from({ length: 7 }, (_, index) => sample(batch * 7 + index)),
      10,
    );
  }
  expect(summarizeSamples(ledger)).toMatchObject([
    { span: "kill_delete", n: 1 },
    { span: "ready_probe", n: 10, p50Ms: 29, p99Ms: 34 },
  ]);
});

test("many samples of one scenario push out none of a rare scenario", () => {
  const ledger = memoryLedger();
  for (let round = 0; round < 5; round += 1) {
    recordSamples(ledger, [sample(1, { scenario: "pool" }), ...Array.from({ length: 20 }, () => sample(2))], 10);
  }
  expect(summarizeSamples(ledger).map(({ scenario, n }) => [scenario, n])).toEqual([
    ["create", 10],
    ["pool", 5],
  ]);
});

test("an impossible duration is refused with its batch", () => {
  const ledger = memoryLedger();
  for (const durationMs of [-1, Number.NaN, Number.POSITIVE_INFINITY]) {
    expect(() => recordSamples(ledger, [sample(1), sample(durationMs)])).toThrow(/constraint/i);
  }
  expect(summarizeSamples(ledger)).toEqual([]);
});

test("nearest rank: at least p percent are at or below it, and fewer are at or below the one before", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 20_000 }), fc.constantFrom(50, 90, 95, 99), (n, p) => {
      const rank = nearestRank(p, n);
      expect(Number.isInteger(rank) && rank >= 1 && rank <= n).toBe(true);
      expect(rank * 100).toBeGreaterThanOrEqual(p * n);
      expect((rank - 1) * 100).toBeLessThan(p * n);
    }),
  );
});

test("a sandbox's own samples are its newest, oldest first", () => {
  const ledger = memoryLedger();
  const spans = ["ready_probe", "command_start", "first_stdout_byte", "command_start"] as const;
  recordSamples(ledger, [
    ...spans.map((span, atMs) => sample(atMs, { span, atMs })),
    sample(9, { sandboxId: "i2" }),
    sample(9, { sandboxId: null }),
  ]);
  const seen = samplesOfSandbox(ledger, "i1", 3).map(({ span, durationMs, atMs }) => [span, durationMs, atMs]);
  expect(seen).toEqual([
    ["command_start", 1, 1],
    ["first_stdout_byte", 2, 2],
    ["command_start", 3, 3],
  ]);
  expect(samplesOfSandbox(ledger, "i3", 3)).toEqual([]);
});
