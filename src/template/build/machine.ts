/**
 * The machine that a build works in: restored from the parent's snapshot, booted from the disk of an image, or booted
 * from the base disk when the build asks for another shape. Of templates only `base` can be booted anew, because it
 * consists of that disk alone.
 */
import type { Clock } from "../../clock.ts";
import { DomainError } from "../../errors.ts";
import type { GuestAgent } from "../../guest/agent.ts";
import { setupOf, templateEnvironment } from "../../guest-machine/setup.ts";
import type { ResolvedTemplate } from "../../ledger/templates.ts";
import type { Logger } from "../../log.ts";
import { newSessionId, type Vm, type VmDriver } from "../../machine/driver.ts";
import { readSnapshot } from "../../machine/snapshot-files.ts";
import type { Scope } from "../../scope.ts";
import type { MachineShape } from "../../types.ts";
import type { GuestAssets } from "../assets/guest-assets.ts";
import { baseAlias } from "../base/template.ts";
import { openAgentIn } from "../machine/machine.ts";
import { runCommand, warmUp } from "../machine/warm-up.ts";
import { trustInGuest } from "../trust/guest-trust.ts";
import type { GuestTrust } from "../trust/host-trust.ts";
import { trustInImage } from "../trust/image-trust.ts";

export interface BuildMachineDependencies {
  readonly driver: VmDriver;
  readonly clock: Clock;
  readonly log: Logger;
  readonly assets: GuestAssets;
  readonly trust: GuestTrust;
}

/** The start of a build: `boot` when the parent's snapshot has another shape. */
export type BuildStart =
  | { readonly kind: "restore"; readonly snapshotFolder: string; readonly shape: MachineShape }
  | { readonly kind: "boot"; readonly shape: MachineShape }
  | { readonly kind: "image"; readonly disk: string; readonly shape: MachineShape };

/** The shape of a template that is built from an image, if the build asks for none. */
const imageShape = { vcpuCount: 2, memoryMiB: 512 };

interface AskedShape {
  readonly vcpuCount: number | null;
  readonly memoryMiB: number | null;
}

/** The start from an image's disk, in any shape. */
export function imageStart(disk: { readonly path: string; readonly diskMiB: number }, asked: AskedShape): BuildStart {
  const shape = {
    vcpuCount: asked.vcpuCount ?? imageShape.vcpuCount,
    memoryMiB: asked.memoryMiB ?? imageShape.memoryMiB,
    diskMiB: disk.diskMiB,
  };
  return { kind: "image", disk: disk.path, shape };
}

/**
 * Compares the shape that a build asks for with its parent's. Pure.
 * @throws DomainError `unsupported` naming the option when only a boot could give it, and the parent cannot be booted
 */
export function decideStart({ template, snapshot }: ResolvedTemplate, asked: AskedShape): BuildStart {
  const shape = {
    vcpuCount: asked.vcpuCount ?? template.shape.vcpuCount,
    memoryMiB: asked.memoryMiB ?? template.shape.memoryMiB,
    diskMiB: template.shape.diskMiB,
  };
  const changed = [
    shape.vcpuCount === template.shape.vcpuCount ? "" : `cpuCount ${shape.vcpuCount}`,
    shape.memoryMiB === template.shape.memoryMiB ? "" : `memoryMB ${shape.memoryMiB}`,
  ].filter((text) => text !== "");
  if (changed.length === 0) return { kind: "restore", snapshotFolder: snapshot.folder, shape };
  if (template.aliases.includes(baseAlias)) return { kind: "boot", shape };
  const name = template.aliases[0] ?? template.id;
  throw new DomainError(
    "unsupported",
    `${changed.join(" and ")} is not supported when building from '${name}': a template's memory snapshot keeps its ` +
      `shape (cpuCount ${template.shape.vcpuCount}, memoryMB ${template.shape.memoryMiB}). Leave the option out, or build from '${baseAlias}'.`,
  );
}

/** Launches a machine for a build, without opening its agent. The caller has to terminate it. */
export async function startBuildMachine(
  { driver, assets }: BuildMachineDependencies,
  start: BuildStart,
  signal: AbortSignal,
): Promise<Vm> {
  const sessionId = newSessionId();
  if (start.kind !== "restore") {
    const baseDisk = start.kind === "image" ? start.disk : assets.baseDisk;
    return driver.boot({ sessionId, shape: start.shape, ...assets, baseDisk }, signal);
  }
  const manifest = await readSnapshot(start.snapshotFolder);
  return driver.restore({ sessionId, snapshotFolder: start.snapshotFolder, manifest }, signal);
}

/** Opens the agent of a build's machine, until `scope` closes, and gives the guest clock, entropy and identity. */
export async function openBuildAgent(
  { clock, log, trust }: BuildMachineDependencies,
  scope: Scope,
  vm: Vm,
  start: BuildStart,
  templateId: string,
  signal: AbortSignal,
): Promise<GuestAgent> {
  const booted = start.kind !== "restore";
  const agent = await openAgentIn(scope, vm, { clock, log, booted, signal });
  const profile = { hostname: "build", envs: templateEnvironment(templateId), defaultUser: "user" };
  await agent.setup(setupOf(profile, clock));
  if (start.kind === "boot") {
    await trustInGuest(agent, trust, (command) => runCommand(agent, command));
    await warmUp(agent);
  }
  if (start.kind === "image") {
    await trustInImage(agent, trust);
    await runCommand(agent, "true");
  }
  return agent;
}
