/** Sandbox views: a sandbox as E2B's clients know it, made field by field from the runtime's view. Pure. */
import type { SandboxMetricSample, SandboxView, SnapshotView } from "../runtime/contract.ts";
import type { LatencySample, SandboxRecord } from "../types.ts";
import { deriveTrafficToken } from "./access-token.ts";
import { allTraffic } from "./network-options.ts";
import type { ListedSandbox, Sandbox, SandboxDetail, SandboxLatency, SandboxMetric, SnapshotInfo } from "./schemas.ts";
import { localTeam } from "./template-reference.ts";

/**
 * The version of envd that the guest agent corresponds to. Clients switch features on by it
 * (docs/compatibility.md#processes).
 */
export const envdVersion = "0.6.13";
/** A client id has no meaning any more, but clients require one. */
const clientID = "6532622b";

/**
 * The answer to create and connect.
 * @param domain the domain below which the client finds the sandbox's ports
 */
export function toSandbox({ record, accessToken }: SandboxView, domain: string | null): Sandbox {
  return {
    templateID: record.templateId,
    sandboxID: record.id,
    ...aliasOf(record),
    clientID,
    envdVersion,
    envdAccessToken: accessToken,
    ...(record.ingress.allowPublicTraffic ? {} : { trafficAccessToken: deriveTrafficToken(accessToken) }),
    domain,
  };
}

/** A row of a listing. */
function toListedSandbox({ record, state, waitsForDisk }: SandboxView): ListedSandbox {
  return {
    templateID: record.templateId,
    ...aliasOf(record),
    sandboxID: record.id,
    clientID,
    startedAt: toTime(record.startedAtMs),
    endAt: toTime(record.endAtMs),
    cpuCount: record.shape.vcpuCount,
    memoryMB: record.shape.memoryMiB,
    diskSizeMB: record.shape.diskMiB,
    metadata: record.metadata,
    state,
    envdVersion,
    volumeMounts: [],
    ...(waitsForDisk && { waitingFor: "disk" }),
  };
}

/** The answer to a request for one sandbox. */
export function toSandboxDetail(view: SandboxView, domain: string | null): SandboxDetail {
  const { allowPublicTraffic, maskRequestHost } = view.record.ingress;
  return {
    ...toListedSandbox(view),
    envdAccessToken: view.accessToken,
    allowInternetAccess: view.record.allowInternetAccess,
    domain,
    network: {
      allowPublicTraffic,
      ...(maskRequestHost === null ? {} : { maskRequestHost }),
      ...(view.record.allowInternetAccess ? {} : { denyOut: [allTraffic] }),
    },
    lifecycle: { autoResume: view.record.lifecycle.autoResume, onTimeout: view.record.lifecycle.onTimeout },
    ...(view.keptMemory === undefined ? {} : { pauseMode: view.keptMemory ? "full" : "filesystem" }),
  };
}

/** A snapshot's id is a reference that create understands: its name if it has one, else its template's id. */
export function toSnapshotInfo({ templateId, alias, tag }: SnapshotView): SnapshotInfo {
  const name = alias === null ? undefined : `${localTeam}/${alias}:${tag}`;
  return { snapshotID: name ?? `${templateId}:${tag}`, names: name === undefined ? [] : [name] };
}

export function toSandboxMetric(sample: SandboxMetricSample): SandboxMetric {
  return {
    timestamp: toTime(sample.atMs),
    timestampUnix: Math.floor(sample.atMs / 1000),
    cpuCount: sample.cpuCount,
    cpuUsedPct: sample.cpuUsedPercent,
    memUsed: sample.memUsedBytes,
    memTotal: sample.memTotalBytes,
    memCache: sample.memCacheBytes,
    diskUsed: sample.diskUsedBytes,
    diskTotal: sample.diskTotalBytes,
  };
}

export function toSandboxLatency(samples: readonly LatencySample[]): SandboxLatency {
  return {
    samples: samples.map(({ span, scenario, durationMs, atMs }) => ({ span, scenario, durationMs, at: toTime(atMs) })),
  };
}

/** Rows as JSON, by view, because a changed sandbox has a new view. */
const listedJson = new WeakMap<SandboxView, string>();

/**
 * Writes whole listings as JSON, for one route that clients poll. A listing with the same views as the one before costs
 * nothing, another one only its new rows. The result is bytes, because a text would be encoded for every answer again.
 */
export function listingWriter(): (views: readonly SandboxView[]) => Buffer {
  let last: readonly SandboxView[] = [];
  let json = Buffer.from("[]");
  return (views) => {
    if (views.length !== last.length || views.some((view, at) => view !== last[at])) {
      json = Buffer.from(`[${views.map(toListedJson).join(",")}]`);
      last = views;
    }
    return json;
  };
}

function toListedJson(view: SandboxView): string {
  const known = listedJson.get(view);
  if (known !== undefined) return known;
  const json = JSON.stringify(toListedSandbox(view));
  listedJson.set(view, json);
  return json;
}

/** RFC 3339, UTC, milliseconds. */
function toTime(atMs: number): string {
  return new Date(atMs).toISOString();
}

function aliasOf({ templateAlias }: SandboxRecord): { alias?: string } {
  return templateAlias === null ? {} : { alias: templateAlias };
}
