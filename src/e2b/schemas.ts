/**
 * The schemas of the control plane: bodies, queries and answers in E2B's own spelling. Requests are parsed with them.
 * Answers are only described, for `/openapi.json`. A null counts as a field left out, because some clients send every
 * field.
 * `src/e2b` is E2B's contract: schemas, checks and texts, without engines, SQL or HTTP. It may use the types of the
 * runtime, the templates and the team.
 */
import { z } from "zod";
import { wholeNumber } from "./query-values.ts";

const seconds = z.int32();
const text = z.string();

/** Names and values of variables go into environments of the guest, which can hold no others. */
const variableName = text.regex(/^[^=\0]+$/);
const nameRule = "a name must not be empty and must have no '=' and no NUL";
const variableValue = text.regex(/^[^\0]*$/, "must have no NUL");

const SandboxMetadata = z.record(text, text);
const EnvVars = z.record(variableName, variableValue, {
  error: ({ code }) => (code === "invalid_key" ? nameRule : undefined),
});
const SandboxState = z.enum(["running", "paused"]);

const egressOptions = {
  allowOut: z.array(text).nullish(),
  denyOut: z.array(text).nullish(),
  egressProxy: z.looseObject({}).nullish(),
  rules: z.record(text, z.unknown()).nullish(),
};
const SandboxNetworkConfig = z.object({
  ...egressOptions,
  allowPublicTraffic: z.boolean().nullish(),
  maskRequestHost: text.nullish(),
  httpsPorts: z.array(z.int32()).nullish(),
});
/** `PUT /sandboxes/{id}/network`. A field that is left out is cleared. */
export const SandboxNetworkUpdateConfig = z
  .object({ ...egressOptions, allow_internet_access: z.boolean().nullish() })
  .nullish()
  .meta({ id: "SandboxNetworkUpdateConfig" });
export type SandboxNetworkUpdateConfig = z.infer<typeof SandboxNetworkUpdateConfig>;

/** `POST /v2/sandboxes`. */
export const NewSandboxV2 = z
  .object({
    templateID: text,
    timeout: seconds.nullish().describe("seconds; default 300, on /sandboxes 15"),
    autoPause: z.boolean().nullish(),
    autoPauseMemory: z.boolean().nullish(),
    autoResume: z.object({ enabled: z.boolean() }).nullish(),
    allow_internet_access: z.boolean().nullish(),
    network: SandboxNetworkConfig.nullish(),
    metadata: SandboxMetadata.nullish(),
    envVars: EnvVars.nullish(),
    mcp: z.record(text, z.unknown()).nullish(),
    iam: z.looseObject({ tokens: z.record(text, z.unknown()).nullish() }).nullish(),
    volumeMounts: z.array(z.looseObject({ name: text, path: text })).nullish(),
  })
  .meta({ id: "NewSandboxV2" });
export type NewSandboxV2 = z.infer<typeof NewSandboxV2>;

/** `POST /sandboxes`. */
export const NewSandbox = NewSandboxV2.extend({
  secure: z.boolean().nullish().describe("every sandbox is secured, whatever this says"),
}).meta({ id: "NewSandbox" });
export type NewSandbox = z.infer<typeof NewSandbox>;

const sandboxTime = seconds.min(0);

export const ConnectSandbox = z
  .object({ timeout: sandboxTime, memory: z.boolean().nullish() })
  .meta({ id: "ConnectSandbox" });
export const ConnectSandboxV2 = z
  .object({ timeout: sandboxTime.nullish().describe("seconds; default 300"), memory: z.boolean().nullish() })
  .nullish()
  .meta({ id: "ConnectSandboxV2" });
export const ResumedSandbox = z
  .object({
    timeout: sandboxTime.nullish().describe("seconds; default 15"),
    autoPause: z.boolean().nullish().describe("ignored: a sandbox keeps what it was created with"),
    memory: z.boolean().nullish(),
    envVars: EnvVars.nullish().describe(
      "not E2B's: added to the sandbox's variables, for processes that start after it",
    ),
  })
  .nullish()
  .meta({ id: "ResumedSandbox" });
export const SandboxPauseRequest = z
  .object({
    memory: z.boolean().nullish(),
    requireHealthyGuest: z.boolean().nullish().describe("true: refused with 503 while the guest does not answer"),
    reason: z.enum(["stopped", "idle", "exited"]).nullish().describe("not E2B's: kept with the snapshot"),
  })
  .nullish()
  .meta({ id: "SandboxPauseRequest" });
export const SandboxTimeoutRequest = z.object({ timeout: sandboxTime }).meta({ id: "SandboxTimeoutRequest" });
export const SandboxRefreshRequest = z
  .object({ duration: seconds.min(0).max(3600).nullish() })
  .nullish()
  .meta({ id: "SandboxRefreshRequest" });

/** Not E2B's: a stop with time for the processes. */
export const SandboxStopRequest = z
  .object({
    deadlineMs: z.int32().min(0).max(600_000).nullish().describe("after which processes are killed; default 10000"),
  })
  .nullish()
  .meta({ id: "SandboxStopRequest" });

export const SandboxForkRequest = z
  .object({
    timeout: sandboxTime.nullish().describe("seconds; default 15"),
    count: z.int32().min(1).max(100).nullish().describe("default 1"),
  })
  .nullish()
  .meta({ id: "SandboxForkRequest" });
export const SandboxSnapshotRequest = z
  .object({ name: text.nullish() })
  .nullish()
  .meta({ id: "SandboxSnapshotRequest" });
/** Not E2B's: a new sandbox that goes on from a paused one. */
export const SandboxFollowupRequest = z
  .object({
    sandboxID: text.describe("a paused sandbox"),
    timeout: sandboxTime.nullish().describe("seconds; default 15"),
    metadata: SandboxMetadata.nullish().describe("default: those of the paused sandbox"),
    envVars: EnvVars.nullish().describe("default: those of the paused sandbox"),
  })
  .meta({ id: "SandboxFollowupRequest" });

export const SandboxParams = z.object({ sandboxID: text });

/** A list in a query comes joined with commas, or as one parameter many times. */
const list = z
  .union([text, z.array(text)])
  .transform((value) => (Array.isArray(value) ? value : [value]).flatMap((part) => part.split(",")));

export const ListSandboxesQueryV1 = z.object({ metadata: text.optional() });

export const maxPageSize = 100;
export const ListSandboxesQueryV2 = z.object({
  metadata: text.optional(),
  state: list.pipe(z.array(SandboxState)).optional(),
  order: z.enum(["asc", "desc"]).default("desc"),
  startedAfter: z.iso.datetime({ offset: true }).optional(),
  template: text.optional(),
  nextToken: text.optional(),
  limit: wholeNumber(z.int().min(1)).default(maxPageSize),
});

export const ListSnapshotsQuery = z.object({
  sandboxID: text.optional(),
  name: text.optional(),
  nextToken: text.optional(),
  limit: wholeNumber(z.int().min(1)).default(maxPageSize),
});

/** Unix seconds. */
const instant = wholeNumber(z.int().min(0));
export const SandboxMetricsQuery = z.object({ start: instant.optional(), end: instant.optional() });
export const SandboxesMetricsQuery = z.object({ sandbox_ids: list.pipe(z.array(text).max(100)) });

export const Sandbox = z
  .object({
    templateID: text,
    sandboxID: text,
    alias: text.optional(),
    clientID: text,
    envdVersion: text,
    envdAccessToken: text,
    trafficAccessToken: text.optional(),
    domain: text.nullable(),
  })
  .meta({ id: "Sandbox" });
export type Sandbox = z.infer<typeof Sandbox>;

export const ListedSandbox = z
  .object({
    templateID: text,
    alias: text.optional(),
    sandboxID: text,
    clientID: text,
    startedAt: text,
    endAt: text,
    cpuCount: z.int32(),
    memoryMB: z.int32(),
    diskSizeMB: z.int32(),
    metadata: SandboxMetadata,
    state: SandboxState,
    envdVersion: text,
    volumeMounts: z.array(z.object({ name: text, path: text })),
    waitingFor: z
      .literal("disk")
      .optional()
      .describe("not E2B's: the running sandbox stands still until this machine's disk has room"),
  })
  .meta({ id: "ListedSandbox" });
export type ListedSandbox = z.infer<typeof ListedSandbox>;

export const SandboxDetail = ListedSandbox.extend({
  envdAccessToken: text,
  allowInternetAccess: z.boolean(),
  domain: text.nullable(),
  network: z.object({
    allowPublicTraffic: z.boolean(),
    maskRequestHost: text.optional(),
    denyOut: z.array(text).optional(),
  }),
  lifecycle: z.object({ autoResume: z.boolean(), onTimeout: z.enum(["kill", "pause"]) }),
  pauseMode: z.enum(["full", "filesystem"]).optional().describe("of a paused sandbox: whether its memory was saved"),
}).meta({ id: "SandboxDetail" });
export type SandboxDetail = z.infer<typeof SandboxDetail>;

export const SandboxMetric = z
  .object({
    timestamp: text,
    timestampUnix: z.int(),
    cpuCount: z.int32(),
    cpuUsedPct: z.number(),
    memUsed: z.int(),
    memTotal: z.int(),
    memCache: z.int(),
    diskUsed: z.int(),
    diskTotal: z.int(),
  })
  .meta({ id: "SandboxMetric" });
export type SandboxMetric = z.infer<typeof SandboxMetric>;

/** The newest sample of each sandbox that has one. */
export const SandboxesWithMetrics = z
  .object({ sandboxes: z.record(text, SandboxMetric) })
  .meta({ id: "SandboxesWithMetrics" });

/** Not E2B's: the latency samples of one sandbox, oldest first. */
export const SandboxLatency = z
  .object({ samples: z.array(z.object({ span: text, scenario: text, durationMs: z.number(), at: text })) })
  .meta({ id: "SandboxLatency" });
export type SandboxLatency = z.infer<typeof SandboxLatency>;

/** Not E2B's: opens one WebSocket to the sandbox it was asked for. */
export const SocketTicket = z
  .object({ ticket: text, expiresAt: text.describe("30 seconds from now") })
  .meta({ id: "SocketTicket" });

/** `Error`, in E2B's specification. */
export const ApiError = z.object({ code: z.int32(), message: text, error_code: text.optional() }).meta({ id: "Error" });

export const SandboxForkResult = z.array(z.union([z.object({ sandbox: Sandbox }), z.object({ error: ApiError })]));
export const SandboxFollowup = Sandbox.extend({ continuationOf: text, continuationReason: text }).meta({
  id: "SandboxFollowup",
});
export const SnapshotInfo = z.object({ snapshotID: text, names: z.array(text) }).meta({ id: "SnapshotInfo" });
export type SnapshotInfo = z.infer<typeof SnapshotInfo>;
