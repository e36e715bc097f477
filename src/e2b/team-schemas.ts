/** The bodies, queries and answers of teams and API keys, in E2B's own spelling, and the functions that make the answers. */
import { z } from "zod";
import type { TeamMetricSample } from "../runtime/contract.ts";
import type { ApiKeyView } from "../team/keyring.ts";
import { wholeNumber } from "./query-values.ts";

const text = z.string();

/** The one team of a machine. */
export const Team = z.object({ teamID: text, name: text, apiKey: text, isDefault: z.boolean() }).meta({ id: "Team" });

export const TeamParams = z.object({ teamID: text });
/** Unix seconds. */
const instant = wholeNumber(z.int().min(0)).optional();
export const TeamMetricsQuery = z.object({ start: instant, end: instant });
export const MaxTeamMetricQuery = TeamMetricsQuery.extend({
  metric: z.enum(["concurrent_sandboxes", "sandbox_start_rate"]),
});
type MetricName = z.infer<typeof MaxTeamMetricQuery>["metric"];

export const TeamMetric = z
  .object({
    timestamp: text,
    timestampUnix: z.int(),
    concurrentSandboxes: z.int32(),
    sandboxStartRate: z.number().describe("per second"),
  })
  .meta({ id: "TeamMetric" });
export const MaxTeamMetric = z
  .object({ timestamp: text, timestampUnix: z.int(), value: z.number() })
  .meta({ id: "MaxTeamMetric" });

const keyName = text.trim().min(1).max(256);
export const NewTeamAPIKey = z.object({ name: keyName }).meta({ id: "NewTeamAPIKey" });
export const UpdateTeamAPIKey = z.object({ name: keyName }).meta({ id: "UpdateTeamAPIKey" });
export const ApiKeyParams = z.object({ apiKeyID: text });

const IdentifierMaskingDetails = z
  .object({ prefix: text, valueLength: z.int(), maskedValuePrefix: text, maskedValueSuffix: text })
  .meta({ id: "IdentifierMaskingDetails" });
export const TeamAPIKey = z
  .object({
    id: z.uuid(),
    name: text,
    mask: IdentifierMaskingDetails,
    createdAt: text,
    lastUsed: text.nullable(),
  })
  .meta({ id: "TeamAPIKey" });
export type TeamAPIKey = z.infer<typeof TeamAPIKey>;
export const CreatedTeamAPIKey = TeamAPIKey.extend({ key: text.describe("shown this once") }).meta({
  id: "CreatedTeamAPIKey",
});

export function toTeamMetric({ atMs, concurrentSandboxes, startsPerSecond }: TeamMetricSample) {
  return { ...toInstant(atMs), concurrentSandboxes, sandboxStartRate: startsPerSecond };
}

/** The first of the highest samples. Without samples, zero at this moment. */
export function toMaxTeamMetric(samples: readonly TeamMetricSample[], metric: MetricName, nowMs: number) {
  const metricOf = (sample: TeamMetricSample) =>
    metric === "concurrent_sandboxes" ? sample.concurrentSandboxes : sample.startsPerSecond;
  const highest = samples.reduce<TeamMetricSample | undefined>(
    (best, sample) => (best && metricOf(best) >= metricOf(sample) ? best : sample),
    undefined,
  );
  return { ...toInstant(highest?.atMs ?? nowMs), value: highest ? metricOf(highest) : 0 };
}

export function toTeamAPIKey({ id, name, mask, createdAtMs, lastUsedAtMs }: ApiKeyView): TeamAPIKey {
  return {
    id,
    name,
    mask: {
      prefix: mask.prefix,
      valueLength: mask.valueLength,
      maskedValuePrefix: mask.first,
      maskedValueSuffix: mask.last,
    },
    createdAt: toTime(createdAtMs),
    lastUsed: lastUsedAtMs === null ? null : toTime(lastUsedAtMs),
  };
}

function toInstant(atMs: number) {
  return { timestamp: toTime(atMs), timestampUnix: Math.floor(atMs / 1000) };
}

function toTime(atMs: number): string {
  return new Date(atMs).toISOString();
}
