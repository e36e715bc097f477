/** Template views: templates and builds as E2B's clients know them, made field by field. Pure. */
import type { BuildLogLine, BuildView, TemplateView } from "../template/templates.ts";
import type { BuildLogRow, TemplateBuildInfo, TemplateRow } from "./template-schemas.ts";
import { envdVersion } from "./views.ts";

const levels = ["debug", "info", "warn", "error"] as const;
type Level = (typeof levels)[number];

/** A row of a listing. */
export function toTemplate({ template, builds }: TemplateView): TemplateRow {
  const [newest] = builds;
  const { shape } = template;
  return {
    templateID: template.id,
    buildID: template.buildIds[0] ?? newest?.id ?? "",
    cpuCount: shape.vcpuCount,
    memoryMB: shape.memoryMiB,
    diskSizeMB: shape.diskMiB,
    ...commonOf(template),
    createdBy: null,
    buildCount: builds.length,
    envdVersion,
    buildStatus: newest?.state ?? "waiting",
  };
}

/** A template with one page of its builds. */
export function toTemplateWithBuilds({ template }: TemplateView, page: readonly BuildView[]) {
  return { templateID: template.id, ...commonOf(template), builds: page.map(toBuild) };
}

function commonOf(template: TemplateView["template"]) {
  return {
    public: template.public,
    aliases: [...template.aliases],
    names: [...template.aliases],
    createdAt: toTime(template.createdAtMs),
    updatedAt: toTime(template.updatedAtMs),
    lastSpawnedAt: template.lastSpawnedAtMs === null ? null : toTime(template.lastSpawnedAtMs),
    spawnCount: template.spawnCount,
  };
}

function toBuild({ id, state, shape, createdAtMs, updatedAtMs, finishedAtMs }: BuildView) {
  return {
    buildID: id,
    status: state,
    createdAt: toTime(createdAtMs),
    updatedAt: toTime(updatedAtMs),
    ...(finishedAtMs !== null && { finishedAt: toTime(finishedAtMs) }),
    cpuCount: shape.vcpuCount,
    memoryMB: shape.memoryMiB,
    diskSizeMB: shape.diskMiB,
    envdVersion,
  };
}

/** The state of a build with one page of its log. */
export function toBuildInfo(build: BuildView, page: readonly BuildLogLine[]): TemplateBuildInfo {
  const { id, templateId, state, reason } = build;
  return {
    templateID: templateId,
    buildID: id,
    status: state,
    logs: page.map(({ message }) => message),
    logEntries: page.map(toLogEntry),
    ...(reason && {
      reason: {
        message: reason.message,
        ...(reason.step !== undefined && { step: reason.step }),
        logEntries: reason.logEntries.map(toLogEntry),
      },
    }),
  };
}

export function toLogEntry({ atMs, level, message, step }: BuildLogLine): BuildLogRow {
  return { timestamp: toTime(atMs), level, message, ...(step !== undefined && { step }) };
}

/** A filter for entries of `level` and above. */
export function atLeast(level: Level | undefined): (entry: BuildLogLine) => boolean {
  const lowest = levels.indexOf(level ?? "debug");
  return (entry) => levels.indexOf(entry.level) >= lowest;
}

/** RFC 3339, UTC, milliseconds. */
export function toTime(atMs: number): string {
  return new Date(atMs).toISOString();
}
