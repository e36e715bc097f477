/** The schemas of the template routes: bodies, queries and answers in E2B's own spelling. */
import { z } from "zod";
import { wholeNumber } from "./query-values.ts";

const text = z.string();
const name = text.max(256);
const tagNames = z.array(text.max(128)).max(100);
/** E2B's own rule: one, or an even number. */
const CPUCount = z
  .int32()
  .min(1)
  .max(32)
  .refine((count) => count === 1 || count % 2 === 0, "must be 1 or even");
const MemoryMB = z
  .int32()
  .min(128)
  .refine((size) => size % 2 === 0, "must be even");
const command = text.max(100_000);

/** `POST /v3/templates`. */
export const TemplateBuildRequestV3 = z
  .object({
    name: name.nullish().describe("alias[:tag]"),
    tags: tagNames.nullish(),
    alias: name.nullish().describe("deprecated: name"),
    teamID: text.nullish(),
    cpuCount: CPUCount.nullish().describe("default: that of the template it is built from"),
    memoryMB: MemoryMB.nullish().describe("default: that of the template it is built from"),
    minFreeDiskMb: z.int32().min(0).nullish().describe("a build that leaves less of its disk fails"),
  })
  .meta({ id: "TemplateBuildRequestV3" });

export const TemplateRequestResponseV3 = z
  .object({
    templateID: text,
    buildID: text,
    public: z.boolean(),
    names: z.array(text),
    tags: z.array(text),
    aliases: z.array(text),
  })
  .meta({ id: "TemplateRequestResponseV3" });

/** A step may have other keys, which say how the client made its archive. */
const TemplateStep = z
  .looseObject({
    type: text.max(32),
    args: z.array(command).max(2_000).nullish(),
    filesHash: text.nullish(),
    force: z.boolean().nullish(),
  })
  .meta({ id: "TemplateStep" });

export const TemplateBuildStartV2 = z
  .object({
    fromImage: text.max(1_000).nullish(),
    fromTemplate: name.nullish(),
    fromImageRegistry: z.looseObject({}).nullish(),
    force: z.boolean().nullish().describe("run every step, whatever the cache has"),
    steps: z.array(TemplateStep).max(1_000).nullish(),
    startCmd: command.nullish(),
    readyCmd: command.nullish(),
  })
  .meta({ id: "TemplateBuildStartV2" });
export type TemplateBuildStartV2 = z.infer<typeof TemplateBuildStartV2>;

export const LogLevel = z.enum(["debug", "info", "warn", "error"]).meta({ id: "LogLevel" });
const offset = wholeNumber(z.int().min(0).max(2_147_483_647));
const logLimit = wholeNumber(z.int().min(0).max(100)).default(100);
export const BuildStatusQuery = z.object({
  logsOffset: offset.default(0),
  limit: logLimit,
  level: LogLevel.optional(),
});
export const BuildLogsQuery = z.object({
  cursor: wholeNumber(z.int().min(0)).optional().describe("milliseconds since the epoch"),
  limit: logLimit,
  direction: z.enum(["forward", "backward"]).default("forward"),
  level: LogLevel.optional(),
  source: z.enum(["temporary", "persistent"]).optional(),
});

export const BuildLogEntrySchema = z
  .object({ timestamp: text, message: text, level: LogLevel, step: text.optional() })
  .meta({ id: "BuildLogEntry" });
export type BuildLogRow = z.infer<typeof BuildLogEntrySchema>;

const TemplateBuildStatus = z.enum(["building", "waiting", "ready", "error"]);
export const TemplateBuildInfo = z
  .object({
    logs: z.array(text),
    logEntries: z.array(BuildLogEntrySchema),
    templateID: text,
    buildID: text,
    status: TemplateBuildStatus,
    reason: z.object({ message: text, step: text.optional(), logEntries: z.array(BuildLogEntrySchema) }).optional(),
  })
  .meta({ id: "TemplateBuildInfo" });
export type TemplateBuildInfo = z.infer<typeof TemplateBuildInfo>;
export const TemplateBuildLogsResponse = z
  .object({ logs: z.array(BuildLogEntrySchema) })
  .meta({ id: "TemplateBuildLogsResponse" });

export const TemplateBuildFileUpload = z
  .object({ present: z.boolean(), url: text, headers: z.record(text, text).optional() })
  .meta({ id: "TemplateBuildFileUpload" });

export const PrunedBuildCache = z
  .object({ layers: z.int().describe("steps that were kept"), sizeBytes: z.int().describe("their share of the disk") })
  .meta({ id: "PrunedBuildCache" });

export const TemplateListQuery = z.object({
  teamID: text.optional(),
  nextToken: text.optional(),
  limit: wholeNumber(z.int().min(1)).default(100),
});

export const TemplateSchema = z
  .object({
    templateID: text,
    buildID: text,
    cpuCount: z.int32(),
    memoryMB: z.int32(),
    diskSizeMB: z.int32(),
    public: z.boolean(),
    aliases: z.array(text),
    names: z.array(text),
    createdAt: text,
    updatedAt: text,
    createdBy: z.null(),
    lastSpawnedAt: text.nullable(),
    spawnCount: z.int(),
    buildCount: z.int32(),
    envdVersion: text,
    buildStatus: TemplateBuildStatus,
  })
  .meta({ id: "Template" });
export type TemplateRow = z.infer<typeof TemplateSchema>;

const TemplateBuild = z
  .object({
    buildID: text,
    status: TemplateBuildStatus,
    createdAt: text,
    updatedAt: text,
    finishedAt: text.optional(),
    cpuCount: z.int32(),
    memoryMB: z.int32(),
    diskSizeMB: z.int32(),
    envdVersion: text,
  })
  .meta({ id: "TemplateBuild" });
export const TemplateWithBuilds = z
  .object({
    templateID: text,
    public: z.boolean(),
    aliases: z.array(text),
    names: z.array(text),
    createdAt: text,
    updatedAt: text,
    lastSpawnedAt: text.nullable(),
    spawnCount: z.int(),
    builds: z.array(TemplateBuild),
  })
  .meta({ id: "TemplateWithBuilds" });

export const TemplateUpdateRequest = z.object({ public: z.boolean().nullish() }).meta({ id: "TemplateUpdateRequest" });
export const TemplateUpdateResponse = z.object({ names: z.array(text) }).meta({ id: "TemplateUpdateResponse" });
export const TemplateAliasResponse = z
  .object({ templateID: text, public: z.boolean() })
  .meta({ id: "TemplateAliasResponse" });

export const AssignTemplateTagsRequest = z
  .object({ target: name.describe("name:tag"), tags: tagNames.min(1) })
  .meta({ id: "AssignTemplateTagsRequest" });
export const AssignedTemplateTags = z
  .object({ tags: z.array(text), buildID: text })
  .meta({ id: "AssignedTemplateTags" });
export const DeleteTemplateTagsRequest = z
  .object({ name, tags: tagNames.min(1) })
  .meta({ id: "DeleteTemplateTagsRequest" });
export const TemplateTagSchema = z.object({ tag: text, buildID: text, createdAt: text }).meta({ id: "TemplateTag" });

export const TemplateParams = z.object({ templateID: text });
export const BuildParams = z.object({ templateID: text, buildID: text });
export const FilesParams = z.object({ templateID: text, hash: text });
export const AliasParams = z.object({ alias: text });
