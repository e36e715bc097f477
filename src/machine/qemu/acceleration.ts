/**
 * The probe of KVM finds out whether KVM really works here. A `/dev/kvm` that opens proves nothing, because on some
 * hosts a guest never gets to its first instruction. So a kernel is booted under KVM with a deadline, once per host and
 * QEMU version.
 */
import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { access, chown, mkdir, mkdtemp, rm } from "node:fs/promises";
import { cpus, hostname, release } from "node:os";
import { basename, join } from "node:path";
import { DomainError, messageOf } from "../../errors.ts";
import type { Logger } from "../../log.ts";
import { readLogTail } from "../detached-process.ts";
import type { Jail } from "../jail/jail.ts";
import { endProcess } from "../processes.ts";
import { readVerdict, type Verdict, writeVerdict } from "../verdict.ts";
import { consoleDevice, qmpSocketName } from "./arguments.ts";
import { type CpuSetting, emulatedCpu, GuestCpus, hostModel, kvmCpus, readHostCpu } from "./cpu.ts";
import { enginePath, type QemuEngine } from "./engines.ts";
import { QmpClient } from "./qmp.ts";
import { waitForInit, workOf } from "./watchdog.ts";

export type AccelerationChoice = "auto" | "kvm" | "tcg";

/** KVM boots this kernel in well under a second. Processor time, except until QEMU answers. */
const probeDeadlineMs = 4000;
const logName = "qemu.log";

export interface ProbeInput {
  readonly choice: AccelerationChoice;
  readonly jail: Jail;
  readonly engine: QemuEngine;
  readonly cacheFolder: string;
  /** A short path on a local file system, because the probe's socket is there for a moment. */
  readonly machinesFolder: string;
  readonly kernel: string;
  readonly initramfs: string;
  readonly log: Logger;
}

/** Follows the choice, or probes KVM for `auto`. The verdict of a probe is kept in the cache folder. */
export async function decideAcceleration(input: ProbeInput): Promise<"kvm" | "tcg"> {
  if (input.choice !== "auto") return input.choice;
  try {
    await access("/dev/kvm", constants.R_OK | constants.W_OK);
  } catch (error) {
    input.log.info({ reason: messageOf(error) }, "no KVM here: machines run under TCG");
    return "tcg";
  }
  const path = join(input.cacheFolder, "acceleration.json");
  const host = describeHost(input.engine.version);
  const known = await readVerdict(path, host);
  const verdict = known ?? { host, ...(await probe(input, hostModel)) };
  if (verdict !== known) await writeVerdict(path, verdict);
  input.log.info({ works: verdict.works, reason: verdict.reason, remembered: verdict === known }, "KVM probe");
  return verdict.works ? "kvm" : "tcg";
}

/**
 * Decides what processor guests see. With KVM a model by name is tried first, once for a host, because KVM may lack a
 * feature that the host has.
 * @throws DomainError `invalid_argument` when the setting does not fit the acceleration
 */
export async function decideCpus(
  input: ProbeInput & { readonly cpuModel?: CpuSetting },
  acceleration: "kvm" | "tcg",
): Promise<GuestCpus> {
  const { cpuModel = "auto", log, engine, cacheFolder } = input;
  const host = await readHostCpu();
  if (acceleration === "tcg") return new GuestCpus(emulatedCpu(cpuModel), acceleration, host);
  const { wanted, fallback } = kvmCpus(cpuModel, host);
  if (!fallback) return new GuestCpus(wanted, acceleration, host);
  const path = join(cacheFolder, "cpu-model.json");
  const key = describeHost(`${engine.version} ${wanted.model}`);
  const known = await readVerdict(path, key);
  const verdict = known ?? { host: key, ...(await probe(input, wanted.model)) };
  if (verdict !== known) await writeVerdict(path, verdict);
  if (verdict.works) return new GuestCpus(wanted, acceleration, host);
  const { model } = wanted;
  log.warn({ model, reason: verdict.reason }, "KVM does not provide this processor, so guests see the host's own");
  return new GuestCpus(fallback, acceleration, host);
}

/** A digest of everything that could change the verdict. */
function describeHost(engineVersion: string): string {
  const facts = [hostname(), release(), cpus()[0]?.model ?? "", engineVersion];
  return createHash("sha256").update(facts.join("\n")).digest("hex");
}

/** Boots the kernel under KVM and waits until it starts its first program. */
async function probe(input: ProbeInput, cpuModel: string): Promise<Omit<Verdict, "host">> {
  await mkdir(input.machinesFolder, { recursive: true, mode: 0o700 });
  const folder = await mkdtemp(join(input.machinesFolder, "probe-"));
  try {
    const sockets = join(folder, "run");
    await mkdir(sockets);
    const cell = await input.jail.openCell(basename(folder), { memoryBytes: 1024 * 2 ** 20, processors: 2 });
    if (cell.user !== undefined) await chown(sockets, cell.user, cell.user);
    const engine = await input.jail.start({
      role: "vm",
      command: enginePath,
      args: probeArguments(sockets, cpuModel, input),
      logPath: join(folder, logName),
      descriptors: [],
      engine: input.engine,
      cell,
      writable: [sockets],
      readable: [input.kernel, input.initramfs],
      devices: ["/dev/kvm"],
      network: "none",
      calls: "engine",
      fileBytes: 1 << 20,
      environment: {},
    });
    try {
      const qmp = await QmpClient.connect(join(sockets, qmpSocketName), { deadlineMs: probeDeadlineMs });
      try {
        const limits = { silentMs: probeDeadlineMs, wholeMs: probeDeadlineMs };
        await waitForInit(qmp, { readWork: () => workOf(engine.identity), limits });
        return { works: true, reason: "a kernel booted" };
      } finally {
        qmp.close();
      }
    } finally {
      await endProcess(engine.identity, 0);
      await input.jail.closeCell(basename(folder));
    }
  } catch (error) {
    if (!(error instanceof DomainError)) throw error;
    return { works: false, reason: `${error.message}; QEMU said: ${await readLogTail(join(folder, logName))}` };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function probeArguments(sockets: string, cpuModel: string, { kernel, initramfs }: ProbeInput): string[] {
  return [
    ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "microvm", "-accel", "kvm"],
    ["-cpu", cpuModel, "-smp", "2", "-m", "256M", "-kernel", kernel, "-initrd", initramfs],
    ["-append", "console=ttyS0 panic=-1"],
    ["-chardev", `ringbuf,id=${consoleDevice},size=65536`, "-serial", `chardev:${consoleDevice}`],
    ["-qmp", `unix:${join(sockets, qmpSocketName)},server=on,wait=off`],
  ].flat();
}
