/**
 * The ground that a build stands on: the parent's snapshot, or the disk of an image, which is pulled first. Capacity is
 * reserved only then, because an image may take minutes.
 */
import type { Reservation } from "../../ledger/capacity.ts";
import type { BuildJob } from "../../ledger/template-builds.ts";
import type { ResolvedTemplate, TemplateDefaults } from "../../ledger/templates.ts";
import type { MachineShape } from "../../types.ts";
import type { ImageOrder, ImageStore } from "../images/store.ts";
import type { BuildLog } from "./log.ts";
import { type BuildStart, imageStart } from "./machine.ts";

/** What a build is made from. A template's capacity is reserved when the build starts, so that it can be refused. */
export type BuildParent =
  | {
      readonly kind: "template";
      readonly template: ResolvedTemplate;
      readonly start: BuildStart;
      readonly reservation: Reservation;
    }
  | { readonly kind: "image"; readonly order: ImageOrder };

export interface BuildGround {
  readonly start: BuildStart;
  readonly reservation: Reservation;
  /** The context of the first step. */
  readonly defaults: TemplateDefaults;
  /** The parent's build, or the digest of the image. */
  readonly parentId: string;
}

interface GroundWork {
  readonly images: Pick<ImageStore, "prepare">;
  readonly log: BuildLog;
  readonly job: BuildJob;
  /** @throws DomainError `capacity_exhausted` */
  readonly reserve: (shape: MachineShape) => Reservation;
}

/**
 * @throws DomainError as `ImageStore.prepare`; `capacity_exhausted`; the signal's reason. Nothing is reserved then that
 *   was not before.
 */
export async function layGround(
  { images, log, job, reserve }: GroundWork,
  parent: BuildParent,
  signal: AbortSignal,
): Promise<BuildGround> {
  if (parent.kind === "template") {
    const { template, start, reservation } = parent;
    return { start, reservation, defaults: template.defaults, parentId: template.buildId };
  }
  const disk = await images.prepare(parent.order, (level, line) => log.add(level, line), signal);
  signal.throwIfAborted();
  const start = imageStart(disk, job);
  const defaults = { envs: disk.envs, user: "user", workdir: "" };
  return { start, reservation: reserve(start.shape), defaults, parentId: disk.digest };
}
