/**
 * Latency samples: the newest of each span, scenario, engine and acceleration, and percentiles over them.
 *
 * Percentiles are nearest-rank: the pth of n samples is the ⌈p·n/100⌉th smallest. So a percentile is always a measured
 * duration, and the high percentiles of few samples are the maximum. For that reason n stands beside them.
 */
import { DomainError } from "../errors.ts";
import type { Acceleration, EngineName, LatencySample, Scenario, SpanName } from "../types.ts";
import type { Ledger } from "./open.ts";

/** The number of samples of each (span, scenario, engine, acceleration). Older ones make room. */
const samplesKept = 10_000;

export interface SampleSummary {
  readonly span: SpanName;
  readonly scenario: Scenario;
  readonly engine: EngineName;
  readonly acceleration: Acceleration;
  readonly n: number;
  readonly p50Ms: number;
  readonly p90Ms: number;
  readonly p95Ms: number;
  readonly p99Ms: number;
}

type SampleKey = Pick<LatencySample, "span" | "scenario" | "engine" | "acceleration">;

/** Adds samples, in one transaction, and drops the oldest of their keys beyond `kept`. */
export function recordSamples(ledger: Ledger, samples: readonly LatencySample[], kept: number = samplesKept): void {
  if (samples.length === 0) return;
  ledger.write(() => {
    for (const { span, scenario, engine, acceleration, durationMs, sandboxId, atMs } of samples) {
      const key = { span, scenario, engine, acceleration };
      const number = newestNumber(ledger, key) + 1;
      ledger
        .statement(
          `insert into latency_samples (span, scenario, engine, acceleration, number, duration_ms, sandbox_id, at_ms)
           values (:span, :scenario, :engine, :acceleration, :number, :durationMs, :sandboxId, :atMs)`,
        )
        .run({ ...key, number, durationMs, sandboxId, atMs });
      ledger
        .statement(
          `delete from latency_samples
           where span = :span and scenario = :scenario and engine = :engine and acceleration = :acceleration
           and number <= :tooOld`,
        )
        .run({ ...key, tooOld: number - kept });
    }
  });
}

/** One line for each span, scenario, engine and acceleration that has samples, in that order. */
export function summarizeSamples(ledger: Ledger): SampleSummary[] {
  const keys = ledger
    .statement<SampleKey & { n: number }>(
      `select span, scenario, engine, acceleration, count(*) as n from latency_samples
       group by span, scenario, engine, acceleration order by span, scenario, engine, acceleration`,
    )
    .all({});
  return keys.map(({ n, ...key }) => {
    const percentile = (p: number) => durationAtRank(ledger, key, nearestRank(p, n));
    return { ...key, n, p50Ms: percentile(50), p90Ms: percentile(90), p95Ms: percentile(95), p99Ms: percentile(99) };
  });
}

/** The newest samples of one sandbox, oldest first. It reads every sample in the ledger, in a few milliseconds. */
export function samplesOfSandbox(ledger: Ledger, sandboxId: string, limit: number): LatencySample[] {
  return ledger
    .statement<LatencySample>(
      `select span, scenario, engine, acceleration, duration_ms as durationMs, sandbox_id as sandboxId, at_ms as atMs
       from latency_samples where sandbox_id = :sandboxId order by at_ms desc, number desc limit :limit`,
    )
    .all({ sandboxId, limit })
    .reverse();
}

/** The rank, from 1, of the pth percentile among n samples in ascending order. Whole numbers keep it exact. */
export function nearestRank(p: number, n: number): number {
  return Math.max(1, Math.ceil((p * n) / 100));
}

function durationAtRank(ledger: Ledger, { span, scenario, engine, acceleration }: SampleKey, rank: number): number {
  const sample = ledger
    .statement<{ durationMs: number }>(
      `select duration_ms as durationMs from latency_samples
       where span = :span and scenario = :scenario and engine = :engine and acceleration = :acceleration
       order by duration_ms limit 1 offset :skip`,
    )
    .get({ span, scenario, engine, acceleration, skip: rank - 1 });
  if (!sample) throw new DomainError("internal", `There is no sample of ${span} at rank ${rank}`);
  return sample.durationMs;
}

/** The highest number of a key. SQLite finds it at the end of the key's range of the primary key, among any number. */
function newestNumber(ledger: Ledger, { span, scenario, engine, acceleration }: SampleKey): number {
  const newest = ledger
    .statement<{ number: number | null }>(
      `select max(number) as number from latency_samples
       where span = :span and scenario = :scenario and engine = :engine and acceleration = :acceleration`,
    )
    .get({ span, scenario, engine, acceleration });
  return newest?.number ?? 0;
}
