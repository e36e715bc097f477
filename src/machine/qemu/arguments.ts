/**
 * The command line of QEMU, made from the description of a machine. It is the same for boot and restore in everything
 * the guest can see, because device state only fits the device set it was taken from. Nothing here touches the host.
 */
import { join } from "node:path";
import { DomainError } from "../../errors.ts";
import type { QemuMachine } from "./machine.ts";
import { socketsFolder } from "./machine-files.ts";

/** Names of sockets in a VM's folder. */
export const qmpSocketName = "qmp.sock";
export const agentSocketName = "agent.sock";
/** QEMU's name for the ring buffer that holds the guest's console. */
export const consoleDevice = "console";

/** TCG's translation cache: most of an idle VM's private memory. Below 32 MiB commands became four times slower. */
const translationCacheMiB = 32;

/** `sun_path` holds 108 bytes, the last a NUL. */
const maxSocketPathBytes = 107;

export type Start =
  | { readonly kind: "boot"; readonly kernel: string; readonly initramfs: string; readonly commandLine: string }
  /** `fd`: the snapshot's device state, inherited by QEMU. Deferred: QEMU loads it when QMP says so. */
  | { readonly kind: "restore"; readonly fd: number; readonly deferred?: boolean };

export interface Launch {
  readonly folder: string;
  readonly machine: QemuMachine;
  readonly acceleration: "kvm" | "tcg";
  /** `path` is absolute. Writes go to the file if `shared`, otherwise they stay private to the process. */
  readonly memory: { readonly path: string; readonly shared: boolean };
  /** Absolute paths, top first; all but the first are only read. */
  readonly layers: readonly string[];
  /** A descriptor that QEMU inherits and connects the guest's network device to. */
  readonly networkFd: number;
  readonly start: Start;
}

/**
 * Refuses a folder in which the sockets of a VM cannot be bound.
 * @throws DomainError `invalid_argument` when their paths are longer than the kernel allows
 */
export function checkSocketPaths(folder: string): void {
  const longest = Buffer.byteLength(join(socketsFolder(folder), agentSocketName));
  if (longest <= maxSocketPathBytes) return;
  const problem = `a socket in it would have a path of ${longest} bytes and Linux allows ${maxSocketPathBytes}`;
  throw new DomainError(
    "invalid_argument",
    `${folder} is too long: ${problem}. Move the state folder to a shorter path.`,
  );
}

/** The arguments after `qemu-system-x86_64`. */
export function qemuArguments(launch: Launch): string[] {
  const { folder, machine, acceleration, memory, networkFd, start } = launch;
  const size = `${machine.memoryMiB}M`;
  return [
    ["-nodefaults", "-no-user-config", "-display", "none"],
    // A guest that reboots or powers off leaves QEMU stopped, so that its console can still be read; then the daemon
    // ends QEMU.
    ["-no-reboot", "-no-shutdown"],
    // The guest is hostile: QEMU gives up what it never needs.
    ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"],
    // Without a description and configuration section the device state alone is a stream that `-incoming` accepts.
    ["-machine", "microvm,acpi=on,rtc=on,isa-serial=on,x-option-roms=off,suppress-vmdesc=on,memory-backend=ram"],
    ["-global", "migration.send-configuration=off"],
    // No switch has to learn where the guest is now. By default QEMU has the guest announce itself five times in its
    // first second, which is a quarter of a restore's cost under TCG. With no round at all QEMU 7.2 dies when the guest
    // resets its network device. So it announces itself once, and as late as QEMU allows (milliseconds).
    ["-global", "migration.announce-rounds=1", "-global", "migration.announce-initial=100000"],
    ["-accel", acceleration === "tcg" ? `tcg,thread=multi,tb-size=${translationCacheMiB}` : "kvm"],
    ["-cpu", machine.cpuModel, "-smp", String(machine.vcpuCount), "-m", size],
    [
      "-object",
      option("memory-backend-file", { id: "ram", size, "mem-path": memory.path, share: onOff(memory.shared) }),
    ],
    // The console is in memory, so that a guest which floods it fills no disk.
    ["-chardev", option("ringbuf", { id: consoleDevice, size: "65536" }), "-serial", `chardev:${consoleDevice}`],
    ["-device", "virtio-serial-device,max_ports=2"],
    [
      "-chardev",
      option("socket", { id: "agent", path: join(socketsFolder(folder), agentSocketName), server: "on", wait: "off" }),
    ],
    ["-device", "virtserialport,chardev=agent,name=firkin.agent"],
    ...diskArguments(launch),
    ["-netdev", `stream,id=net,server=off,addr.type=fd,addr.str=${networkFd}`],
    ["-device", "virtio-net-device,netdev=net,mac=52:54:00:00:00:02"],
    [
      "-chardev",
      option("socket", { id: "qmp", path: join(socketsFolder(folder), qmpSocketName), server: "on", wait: "off" }),
    ],
    ["-mon", "chardev=qmp,mode=control"],
    start.kind === "boot"
      ? ["-kernel", start.kernel, "-initrd", start.initramfs, "-append", start.commandLine]
      : ["-incoming", start.deferred ? "defer" : `fd:${start.fd}`],
  ].flat();
}

/** One node per layer. Each names the one below it, so that no qcow2 header holds a path. */
function diskArguments({ machine, layers }: Launch): string[] {
  const nodes = [
    option("raw", { "node-name": "base", "read-only": "on", ...file(machine.baseDisk, true) }, "driver"),
    ...layers
      .map((path, depth) => {
        const backing = depth === layers.length - 1 ? "base" : nodeName(depth + 1);
        const lower = depth > 0;
        const readOnly = lower ? { "read-only": "on" } : { discard: "unmap" };
        return option("qcow2", { "node-name": nodeName(depth), ...readOnly, backing, ...file(path, lower) }, "driver");
      })
      .reverse(),
  ];
  // A disk of the host that is full or fails lets the guest stand still until it serves again. The guest hears nothing.
  const device = option("virtio-blk-device", { drive: nodeName(0), werror: "stop", rerror: "stop" });
  return [...nodes.flatMap((node) => ["-blockdev", node]), "-device", device];
}

const nodeName = (depth: number) => `disk${depth}`;

/** Shared images are not locked, because they never change and locking would count readers across all VMs. */
function file(path: string, shared: boolean): Record<string, string> {
  return {
    "file.driver": "file",
    "file.filename": path,
    ...(shared ? { "file.read-only": "on", "file.locking": "off" } : { "file.discard": "unmap" }),
  };
}

const onOff = (value: boolean) => (value ? "on" : "off");

/** `kind,key=value,…` with commas in values doubled, as QEMU's option parser wants them. */
function option(kind: string, values: Readonly<Record<string, string>>, kindKey?: string): string {
  const first = kindKey ? `${kindKey}=${kind}` : kind;
  return [first, ...Object.entries(values).map(([key, value]) => `${key}=${value.replaceAll(",", ",,")}`)].join(",");
}
