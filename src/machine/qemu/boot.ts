/**
 * The parameters of a boot that a restore finds in its snapshot: the machine's devices, and the kernel's command line.
 */
import { execFile } from "node:child_process";
import { stat } from "node:fs/promises";
import { resolve } from "node:path";
import { promisify } from "node:util";
import { DomainError, messageOf } from "../../errors.ts";
import { buildTool } from "../build-tool.ts";
import type { BootRequest } from "../driver.ts";
import type { Images } from "../images.ts";
import { networkCommandLine } from "../network/network.ts";
import { type QemuMachine, type RunningMachine, resolveMachine } from "./machine.ts";

const run = promisify(execFile);

/**
 * `panic=-1` reboots at once, which ends QEMU. `mitigations=off`: a guest belongs to one client, who is root in it, and
 * the VM keeps it from others. Page-table isolation would flush the emulated TLB at every system call. `nowatchdog`: a
 * guest that a busy host does not let run is not stuck, and a watchdog would wake an idle one.
 *
 * The other settings save work at every system call, switch and page, which an emulator first has to translate. `lsm`
 * leaves the modules by which programs restrict themselves, `psi` is pressure accounting, `noautogroup` makes no
 * scheduling group for every command, and `init_on_alloc=0` clears no memory twice, because programs get cleared memory
 * all the same.
 */
const commandLine = [
  "console=ttyS0 reboot=t panic=-1 mitigations=off nowatchdog",
  "lsm=landlock,yama psi=0 noautogroup init_on_alloc=0",
  networkCommandLine,
].join(" ");

/**
 * The machine that a boot starts: as the request says, or as the snapshot it boots from says.
 * @throws DomainError `not_found` without the base disk, `failed_precondition` when a snapshot's machine is unknown
 */
export async function describeMachine(
  { snapshot, ...request }: BootRequest,
  { cpuModel, images }: { readonly cpuModel: string; readonly images: Images },
): Promise<QemuMachine> {
  const saved = snapshot && (await resolveMachine(snapshot.manifest, images));
  const { shape, baseDisk } = saved ? { shape: saved, baseDisk: saved.baseDisk } : request;
  const { size } = await stat(baseDisk).catch((error: unknown) => {
    throw new DomainError("not_found", `no base disk: ${messageOf(error)}`, {}, { cause: error });
  });
  return {
    deviceSet: 1,
    cpuModel,
    vcpuCount: shape.vcpuCount,
    memoryMiB: shape.memoryMiB,
    diskMiB: Math.max(shape.diskMiB, Math.ceil(size / 2 ** 20)),
    baseDisk: resolve(baseDisk),
  };
}

/**
 * The kernel's command line. Under TCG it tells the kernel the frequency of its time-stamp counter. The kernel would
 * otherwise measure it against an emulated timer, which fails when the host is busy, and then wait for ticks that never
 * come, or give up the counter as its clock later. `tsc=reliable` keeps it from comparing the two afterwards.
 *
 * `norandmaps`: QEMU finds translated code by its address in memory, so programs and libraries at other addresses in
 * every process would be translated again for every process. That was three quarters of the time of a command.
 */
export async function kernelCommandLine(
  acceleration: RunningMachine["acceleration"],
  cacheFolder: string,
): Promise<string> {
  if (acceleration !== "tcg") return commandLine;
  const { stdout } = await run(await buildTool({ beside: import.meta.url, source: "tsc-frequency.c" }, cacheFolder));
  return `${commandLine} tsc_early_khz=${Number.parseInt(stdout, 10)} tsc=reliable norandmaps`;
}
