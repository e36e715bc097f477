/** `firkin build`: a Dockerfile becomes a template, with the daemon's log as its progress. */
import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { DomainError } from "../errors.ts";
import type { BuildStatus, ControlApi } from "./api.ts";
import { archiveSource } from "./context.ts";
import { type DockerStep, parseDockerfile } from "./dockerfile.ts";

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

const pollMs = 500;
/** As the SDKs: time for a command to come up of which nobody says when it is ready. */
const readyCommand = "sleep 20";

/**
 * Builds and waits.
 * @param say a line for a person
 * @throws DomainError with the line of the Dockerfile, the daemon's refusal, or the reason of the build
 */
export async function buildTemplate(api: ControlApi, order: BuildOrder, say: (line: string) => void): Promise<void> {
  const file = await findDockerfile(order.place);
  const parsed = parseDockerfile(await readFile(file, "utf8"), order.buildArgs);
  for (const warning of parsed.warnings) say(`${basename(file)}, ${warning}`);
  const asked = await api.call<{ templateID: string; buildID: string }>("POST", "/v3/templates", {
    name: order.name,
    cpuCount: order.cpuCount,
    memoryMB: order.memoryMB,
  });
  const { templateID, buildID } = asked;
  const scratch = await mkdtemp(join(tmpdir(), "firkin-build-"));
  try {
    const steps: SentStep[] = [];
    for (const step of parsed.steps) steps.push(...(await sendStep(api, templateID, dirname(file), step, scratch)));
    await api.call("POST", `/v2/templates/${templateID}/builds/${buildID}`, {
      fromImage: parsed.image,
      force: order.noCache,
      steps,
      ...(parsed.startCommand !== undefined && { startCmd: parsed.startCommand, readyCmd: readyCommand }),
    });
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
  await follow(api, `/templates/${templateID}/builds/${buildID}/status`, say);
}

async function findDockerfile(place: string): Promise<string> {
  const path = resolve(place);
  const found = await stat(path).catch(() => undefined);
  if (!found) throw new DomainError("invalid_argument", `there is no ${place}`);
  return found.isDirectory() ? join(path, "Dockerfile") : path;
}

/** The steps as the daemon takes them; files are sent to it. */
async function sendStep(
  api: ControlApi,
  templateId: string,
  folder: string,
  step: DockerStep,
  scratch: string,
): Promise<SentStep[]> {
  if (step.type !== "COPY") return [{ type: step.type, args: step.args }];
  const sent: SentStep[] = [];
  // Several sources go into a folder, whatever its name ends with.
  const into = step.sources.length > 1 && !step.destination.endsWith("/") ? "/" : "";
  for (const source of step.sources) {
    const { path, hash } = await archiveSource(folder, source, join(scratch, "archive.tar"));
    const offer = await api.call<{ present: boolean; url: string }>("GET", `/templates/${templateId}/files/${hash}`);
    if (!offer.present) await api.upload(offer.url, path);
    const args = [source, step.destination + into, step.owner, step.mode];
    sent.push({ type: "COPY", args, filesHash: hash });
  }
  return sent;
}

async function follow(api: ControlApi, path: string, say: (line: string) => void): Promise<void> {
  for (let offset = 0; ; ) {
    const { status, logEntries, reason } = await api.call<BuildStatus>("GET", `${path}?logsOffset=${offset}&limit=100`);
    for (const { message } of logEntries) say(message);
    offset += logEntries.length;
    if (logEntries.length > 0) continue;
    if (status === "ready") return;
    if (status === "error") throw new DomainError("failed_precondition", reason?.message ?? "the build failed");
    await delay(pollMs);
  }
}
