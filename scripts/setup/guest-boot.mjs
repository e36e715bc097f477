/** The machines that guest jobs are run in: Apple's framework through the signed helper on a Mac, QEMU on Linux. */
import * as fs from "node:fs";
import { join } from "node:path";
import { run } from "./command.mjs";

/** @typedef {import("./guest-job.mjs").Boot} Boot */

const vcpuCount = 2;
const memoryMiB = 2048;

/**
 * The program, machine, console and disk by architecture. Emulated: a processor that has no pointer authentication,
 * whose emulation costs much.
 */
const qemuMachines = {
  amd64: ["qemu-system-x86_64", "microvm", "max", "ttyS0", "virtio-blk-device"],
  arm64: ["qemu-system-aarch64", "virt", "cortex-a72", "ttyAMA0", "virtio-blk-pci"],
};

/**
 * @param {import("./kernel.mjs").Architecture} architecture
 * @returns {Boot} whose machines say on `onLine` what they do
 */
export function qemuBoot(architecture) {
  const [command = "", type = "", cpu = "", console = "", diskDevice = ""] = qemuMachines[architecture];
  return async ({ kernel, initramfs, commandLine, disk }, { signal, onLine }) => {
    const machine = ["-M", type, "-cpu", cpu, "-smp", String(vcpuCount), "-m", String(memoryMiB)];
    const bare = ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"];
    const software = ["-kernel", kernel, "-initrd", initramfs, "-append", `${commandLine} console=${console}`];
    const drive = [
      "-drive",
      `if=none,id=disk,format=raw,cache=unsafe,file=${disk}`,
      "-device",
      `${diskDevice},drive=disk`,
    ];
    await run(command, [...machine, ...bare, ...software, ...drive], { signal, onLine });
  };
}

/**
 * @param {import("./roots.mjs").Roots} roots Whose dist/ is built.
 * @param {string} helper
 * @returns {Boot} whose machines have no console: what they have to say is in the outbox
 */
export function vzBoot(roots, helper) {
  return async ({ disk, folder, ...software }, { signal, onLine }) => {
    // The helper makes its disk itself, as a clone of another.
    const machineDisk = join(folder, "disk.img");
    const diskMiB = fs.statSync(disk).size / 2 ** 20;
    const machine = { vcpuCount, memoryMiB, diskMiB, disk: machineDisk };
    const order = { machine, diskSource: disk, ...software };
    const program = join(roots.repository, "dist/scripts/setup/vz-boot.js");
    await run(process.execPath, [program, helper, folder, JSON.stringify(order)], { signal, onLine });
    fs.renameSync(machineDisk, disk);
  };
}
