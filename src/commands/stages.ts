/**
 * The files that a COPY takes from another stage of a Dockerfile. The stage is built as a template, which packs them in
 * its last steps, and they come out of a sandbox that is made from it. So the daemon knows nothing of stages, and its
 * cache of steps serves them, too.
 */
import { randomUUID } from "node:crypto";
import { join, posix } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { DomainError } from "../errors.ts";
import type { ControlApi, FileSource } from "./api.ts";
import { type Archive, hashed } from "./context.ts";
import type { DockerStage, DockerStep } from "./dockerfile.ts";

/** A template to build. */
export interface Recipe {
  readonly name: string;
  readonly image: string;
  readonly steps: readonly DockerStep[];
  readonly startCommand: string | undefined;
}

type BuildStage = (recipe: Recipe, title: string) => Promise<void>;

interface StageWork {
  readonly api: ControlApi;
  /** Folder for the archives. */
  readonly scratch: string;
}

type Copy = Extract<DockerStep, { type: "COPY" }>;

/** A folder in the guest that no image has. */
const packFolder = "/var/tmp/firkin-stage";
const sandboxSeconds = 900;
const removeTries = 60;
const removePauseMs = 1000;

export class StageFiles {
  readonly #work: StageWork;
  readonly #build: BuildStage;
  readonly #wanted: ReadonlyMap<DockerStage, readonly string[]>;
  readonly #packed = new Map<DockerStage, ReadonlyMap<string, Archive>>();

  /** @param steps of the template, which name the stages that are needed and what is needed of them */
  constructor(work: StageWork, steps: readonly DockerStep[], build: BuildStage) {
    this.#work = work;
    this.#wanted = wantedFrom(steps);
    this.#build = build;
  }

  /** The archive of one source of a COPY, from a stage that is built now if it was not before. */
  async archiveOf(stage: DockerStage, source: string): Promise<Archive> {
    const packed = this.#packed.get(stage) ?? (await this.#pack(stage, this.#wanted.get(stage) ?? []));
    this.#packed.set(stage, packed);
    const archive = packed.get(source);
    if (!archive) throw new Error(`nobody asked for ${source} before`);
    return archive;
  }

  async #pack({ title, image, steps }: DockerStage, sources: readonly string[]): Promise<Map<string, Archive>> {
    const { api } = this.#work;
    const name = `stage-${randomUUID()}`;
    const packing = sources.map(packStep);
    try {
      await this.#build({ name, image, steps: [...steps, ...packing], startCommand: undefined }, title);
      const packed = await this.#takeOut(name, sources);
      await this.#remove(name);
      return packed;
    } catch (error) {
      // What went wrong first is what counts.
      await api.call("DELETE", `/templates/${name}`).catch(() => {});
      throw error;
    }
  }

  /** The sandbox that was killed needs a moment to go. */
  async #remove(name: string): Promise<void> {
    const { api } = this.#work;
    for (let attempt = 1; ; attempt++) {
      try {
        await api.call("DELETE", `/templates/${name}`);
        return;
      } catch (error) {
        if (attempt === removeTries) throw error;
        await delay(removePauseMs);
      }
    }
  }

  async #takeOut(templateName: string, sources: readonly string[]): Promise<Map<string, Archive>> {
    const { api, scratch } = this.#work;
    const asked = { templateID: templateName, timeout: sandboxSeconds };
    const sandbox = await api.call<FileSource>("POST", "/sandboxes", asked);
    try {
      const packed = new Map<string, Archive>();
      for (const [index, source] of sources.entries()) {
        const target = join(scratch, `${templateName}-${index}.tar`);
        await api.download(sandbox, `${packFolder}/${index}.tar`, target);
        packed.set(source, await hashed(target));
      }
      return packed;
    } finally {
      await api.call("DELETE", `/sandboxes/${sandbox.sandboxID}`);
    }
  }
}

/** The sources that steps take from stages, with those that these take from others. */
function wantedFrom(steps: readonly DockerStep[]): Map<DockerStage, string[]> {
  const wanted = new Map<DockerStage, string[]>();
  const open = steps.filter(isFromStage);
  for (let at = 0; at < open.length; at++) {
    const { from, sources } = open[at] ?? {};
    if (!from || !sources) continue;
    const known = wanted.get(from);
    wanted.set(from, [...new Set([...(known ?? []), ...sources])]);
    if (!known) open.push(...from.steps.filter(isFromStage));
  }
  return wanted;
}

const isFromStage = (step: DockerStep): step is Copy => step.type === "COPY" && step.from !== undefined;

/** @throws DomainError `unsupported` for the root itself, in which there is the packing, too */
function packStep(source: string, index: number): DockerStep {
  const path = posix.relative("/", posix.resolve("/", source));
  if (path === "") throw new DomainError("unsupported", "COPY --from of / is not supported: name what is in it");
  // Everything but patterns stays as it is.
  const pattern = path.replaceAll(/[^\w./*?[\]-]/g, "\\$&");
  const command = `mkdir -p ${packFolder} && cd / && tar -cf ${packFolder}/${index}.tar -- ${pattern}`;
  return { type: "RUN", args: [command, "root"] };
}
