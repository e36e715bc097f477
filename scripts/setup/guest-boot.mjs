/** The machines that guest jobs are run in: Apple's framework through the signed helper on a Mac, QEMU on Linux. */
import * as fs from "node:fs";
import { join } from "node:path";
import { run } from "./command.mjs";

/** @typedef {import("./guest-job.mjs").Boot} Boot */

const vcpuCount = 2;
const memoryMiB = 2048;

/**
 * The program, machine, processor, console and disk by architecture. The arm64 processor has no pointer
 * authentication, because emulating that costs much.
 */
const qemuMachines = {
  amd64: ["qemu-system-x86_64", "microvm", "max", "ttyS0", "virtio-blk-device"],
  arm64: ["qemu-system-aarch64", "virt", "cortex-a72", "ttyAMA0", "virtio-blk-pci"],
};

/**
 * @param {import("./kernel.mjs").Architecture} architecture
 * @returns {Boot} The console of its machines is passed to `onLine`.
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
 * The longest time that a guest job may take on a Mac. The longest job takes a few minutes there; a guest that hangs
 * would be waited for without end.
 */
const jobDeadlineMs = 20 * 60_000;

/**
 * @param {import("./roots.mjs").Roots} roots With dist/ built.
 * @param {string} helper
 * @param {number} [deadlineMs]
 * @returns {Boot} Of its machines' consoles the end is in the error of a job that fails.
 */
export function vzBoot(roots, helper, deadlineMs = jobDeadlineMs) {
  return async ({ disk, folder, commandLine, ...software }, { signal, onLine }) => {
    // The helper itself makes the machine's disk, as a clone of this one.
    const machineDisk = join(folder, "disk.img");
    const diskMiB = fs.statSync(disk).size / 2 ** 20;
    const machine = { vcpuCount, memoryMiB, diskMiB, disk: machineDisk };
    const console = { commandLine: `${commandLine} console=hvc0 loglevel=7`, serialLog: join(folder, "console.log") };
    const order = { machine, diskSource: disk, ...software, ...console };
    const program = join(roots.repository, "dist/scripts/setup/vz-boot.js");
    const words = [program, helper, folder, JSON.stringify(order), String(deadlineMs)];
    await run(process.execPath, words, { signal, onLine, tailLines: 50 });
    fs.renameSync(machineDisk, disk);
  };
}
