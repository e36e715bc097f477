/**
 * The processor that a guest sees. Memory and devices of a snapshot fit only a processor that has what the guest found
 * at its boot. Under emulation that is QEMU's own on every host. With KVM it is a model by name, which every host can
 * provide that has its features. The host's own processor is a choice, and a snapshot of it fits that family and model
 * alone.
 */
import { readFile } from "node:fs/promises";
import { DomainError } from "../../errors.ts";
import { emulatedClass } from "../driver.ts";

/** `auto`, `host`, or the name of a model of QEMU's. */
export type CpuSetting = string;

export interface HostCpu {
  /** As in /proc/cpuinfo. */
  readonly vendor: string;
  readonly family: string;
  readonly model: string;
  readonly flags: ReadonlySet<string>;
}

export interface GuestCpu {
  /** QEMU's argument. */
  readonly model: string;
  /** The hosts that can go on with a snapshot of it: see {@link GuestCpus.refuseForeign}. */
  readonly class: string;
}

/**
 * The default model of QEMU lacks SSE4 and AVX2, so software built for x86-64-v2 dies of an illegal instruction. The
 * features taken away are those that TCG lacks and would warn about at every start. TCG has `erms` but emulates it byte
 * by byte, and kernel and C library then copy and clear memory up to eight times slower.
 */
const emulated: GuestCpu = {
  model: "Haswell-noTSX,-pcid,-x2apic,-tsc-deadline,-invpcid,-erms",
  class: emulatedClass,
};

/**
 * The host's own processor, without what a guest has no use for: virtualization of its own, whose handling is a large
 * part of what a hostile guest could attack, and the register that tells which side channels a processor has. Many hosts
 * that are virtual machines themselves fail to set that one, and guests ask for no mitigations.
 */
export const hostModel = "host,-vmx,-svm,-arch-capabilities";

const x86v2 = ["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"];
const x86v3 = [...x86v2, "abm", "aes", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"];

/** Models with the features that they need, the best one first. */
const models: readonly { readonly name: string; readonly vendor: string; readonly flags: readonly string[] }[] = [
  {
    name: "Haswell-noTSX",
    vendor: "GenuineIntel",
    flags: [...x86v3, "erms", "fsgsbase", "invpcid", "pcid", "rdrand", "smep", "tsc_deadline_timer", "x2apic"],
  },
  { name: "Nehalem", vendor: "GenuineIntel", flags: x86v2 },
  {
    name: "EPYC",
    vendor: "AuthenticAMD",
    flags: [...x86v3, "adx", "clflushopt", "fsgsbase", "rdrand", "rdseed", "sha_ni", "smap", "smep", "sse4a"],
  },
];

export async function readHostCpu(): Promise<HostCpu> {
  return parseHostCpu(await readFile("/proc/cpuinfo", "utf8"));
}

export function parseHostCpu(cpuinfo: string): HostCpu {
  const field = (name: string) => new RegExp(`^${name}\\s*:\\s*(.*)$`, "m").exec(cpuinfo)?.[1]?.trim() ?? "unknown";
  return {
    vendor: field("vendor_id"),
    family: field("cpu family"),
    model: field("model"),
    flags: new Set(field("flags").split(/\s+/)),
  };
}

/**
 * The processor for guests with KVM: by default a model by name. Should KVM not provide it, the host's own is the
 * fallback.
 */
export function kvmCpus(
  setting: CpuSetting,
  host: HostCpu,
): { readonly wanted: GuestCpu; readonly fallback?: GuestCpu } {
  const own: GuestCpu = { model: hostModel, class: classOf(host) };
  if (setting === "host") return { wanted: own };
  // `enforce`: QEMU refuses to start rather than leave a feature out.
  if (setting !== "auto") return { wanted: { model: `${setting},enforce`, class: setting } };
  const best = models.find(({ name }) => provides(host, name));
  return best ? { wanted: { model: `${best.name},enforce`, class: best.name }, fallback: own } : { wanted: own };
}

/** @throws DomainError `invalid_argument` when the setting needs KVM */
export function emulatedCpu(setting: CpuSetting): GuestCpu {
  if (setting === "auto") return emulated;
  if (setting === "host") {
    throw new DomainError("invalid_argument", "--cpu-model host needs KVM, and machines run under TCG here");
  }
  return { model: setting, class: setting };
}

/** The processors of guests on this host. */
export class GuestCpus {
  /** Of new guests. */
  readonly current: GuestCpu;
  readonly #host: HostCpu;
  readonly #isEmulated: boolean;

  constructor(current: GuestCpu, acceleration: "kvm" | "tcg", host: HostCpu) {
    this.current = current;
    this.#host = host;
    this.#isEmulated = acceleration === "tcg";
  }

  /** The class of a guest of an earlier version, which does not say it: with KVM it saw the host's own processor. */
  get earlierClass(): string {
    return this.#isEmulated ? emulated.class : classOf(this.#host);
  }

  /**
   * Checks that a guest can go on here.
   * @param wanted the class in a manifest; undefined in those of earlier versions
   * @throws DomainError `failed_precondition` naming both processors
   */
  refuseForeign(wanted: string | undefined): void {
    const own = classOf(this.#host);
    if (this.#isEmulated || wanted === undefined || wanted === own) return;
    const isNamed = models.some(({ name }) => name === wanted);
    // QEMU knows the features of models that are not among ours, and refuses to start without them.
    if (isNamed ? provides(this.#host, wanted) : !wanted.startsWith(hostPrefix)) return;
    const problem =
      `the snapshot needs a processor of class ${wanted}, and this host has ${own}: restore it on such a host, ` +
      "or make it anew";
    throw new DomainError("failed_precondition", problem, { cpuClass: wanted, host: own });
  }
}

function provides({ vendor, flags }: HostCpu, name: string): boolean {
  return models.some(
    (each) => each.name === name && each.vendor === vendor && each.flags.every((flag) => flags.has(flag)),
  );
}

const hostPrefix = "host:";

/** Kernels show different flags for one processor, so they are no part of this. */
const classOf = ({ vendor, family, model }: HostCpu) => `${hostPrefix}${vendor}-${family}-${model}`;
