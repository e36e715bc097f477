/** `firkin build`: a Dockerfile becomes a template, with the daemon's log as its progress. */
import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { DomainError } from "../errors.ts";
import type { BuildStatus, ControlApi } from "./api.ts";
import { archiveSource } from "./context.ts";
import { type DockerStep, parseDockerfile } from "./dockerfile.ts";
import { type Recipe, StageFiles } from "./stages.ts";

export interface BuildOrder {
  /** A Dockerfile, or the folder that one lies in. */
  readonly place: string;
  /** The name of the template, with a tag or without. */
  readonly name: string;
  readonly buildArgs: Readonly<Record<string, string>>;
  readonly cpuCount: number | undefined;
  readonly memoryMB: number | undefined;
  readonly noCache: boolean;
}

interface SentStep {
  readonly type: string;
  readonly args: readonly string[];
  readonly filesHash?: string;
}

type Say = (line: string) => void;

const pollMs = 500;
/** As the SDKs: time for a command to come up of which nobody says when it is ready. */
const readyCommand = "sleep 20";

/**
 * Builds and waits.
 * @param say a line for a person
 * @param signal aborted when the person gives up, which cancels the build
 * @throws DomainError with the line of the Dockerfile, the daemon's refusal, or the reason of the build
 */
export async function buildTemplate(api: ControlApi, order: BuildOrder, say: Say, signal: AbortSignal): Promise<void> {
  const file = await findDockerfile(order.place);
  const parsed = parseDockerfile(await readFile(file, "utf8"), order.buildArgs);
  for (const warning of parsed.warnings) say(`${basename(file)}, ${warning}`);
  const scratch = await mkdtemp(join(tmpdir(), "firkin-build-"));
  try {
    const work = { api, order, folder: dirname(file), scratch, signal };
    const stages: StageFiles = new StageFiles(work, parsed.steps, (recipe, title) =>
      buildOne(work, stages, recipe, (line) => say(`[${title}] ${line}`)),
    );
    await buildOne(work, stages, { ...parsed, name: order.name }, say);
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function findDockerfile(place: string): Promise<string> {
  const path = resolve(place);
  const found = await stat(path).catch(() => undefined);
  if (!found) throw new DomainError("invalid_argument", `there is no ${place}`);
  return found.isDirectory() ? join(path, "Dockerfile") : path;
}

interface BuildWork {
  readonly api: ControlApi;
  readonly order: BuildOrder;
  /** That of the Dockerfile. */
  readonly folder: string;
  readonly scratch: string;
  readonly signal: AbortSignal;
}

/** Builds one template: that of the Dockerfile, or one of a stage. */
async function buildOne(work: BuildWork, stages: StageFiles, recipe: Recipe, say: Say): Promise<void> {
  const { api, order, signal } = work;
  const { cpuCount, memoryMB, noCache } = order;
  const { name, image, steps, startCommand } = recipe;
  const asked = await api.call<{ templateID: string; buildID: string }>("POST", "/v3/templates", {
    name,
    cpuCount,
    memoryMB,
  });
  const { templateID, buildID } = asked;
  const path = `/templates/${templateID}/builds/${buildID}`;
  try {
    const sent: SentStep[] = [];
    for (const step of steps) sent.push(...(await sendStep(work, stages, templateID, step)));
    signal.throwIfAborted();
    await api.call("POST", `/v2${path}`, {
      fromImage: image,
      force: noCache,
      steps: sent,
      ...(startCommand !== undefined && { startCmd: startCommand, readyCmd: readyCommand }),
    });
    await follow(api, `${path}/status`, say, signal);
  } catch (error) {
    if (!signal.aborted) throw error;
    await api.call("DELETE", path);
    throw signal.reason;
  }
}

/** The steps as the daemon takes them; files are sent to it. */
async function sendStep(
  { api, folder, scratch }: BuildWork,
  stages: StageFiles,
  templateId: string,
  step: DockerStep,
): Promise<SentStep[]> {
  if (step.type !== "COPY") return [{ type: step.type, args: step.args }];
  const sent: SentStep[] = [];
  // Several sources go into a folder, whatever its name ends with.
  const into = step.sources.length > 1 && !step.destination.endsWith("/") ? "/" : "";
  for (const source of step.sources) {
    const { path, hash } = step.from
      ? await stages.archiveOf(step.from, source)
      : await archiveSource(folder, source, join(scratch, "archive.tar"));
    const offer = await api.call<{ present: boolean; url: string }>("GET", `/templates/${templateId}/files/${hash}`);
    if (!offer.present) await api.upload(offer.url, path);
    const args = [source, step.destination + into, step.owner, step.mode];
    sent.push({ type: "COPY", args, filesHash: hash });
  }
  return sent;
}

async function follow(api: ControlApi, path: string, say: Say, signal: AbortSignal): Promise<void> {
  for (let offset = 0; ; ) {
    signal.throwIfAborted();
    const { status, logEntries, reason } = await api.call<BuildStatus>("GET", `${path}?logsOffset=${offset}&limit=100`);
    for (const { message } of logEntries) say(message);
    offset += logEntries.length;
    if (logEntries.length > 0) continue;
    if (status === "ready") return;
    if (status === "error") throw new DomainError("failed_precondition", reason?.message ?? "the build failed");
    await delay(pollMs, undefined, { signal });
  }
}
