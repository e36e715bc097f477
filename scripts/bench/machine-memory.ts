/** What a machine takes of the host's memory for itself. */
import { privateBytesBelow } from "../../src/machine/gvisor/processes.ts";
import type { MachineRecord } from "../../src/types.ts";
import type { Bench } from "./bench.ts";
import { memoryMiB } from "./processes.ts";

/** Every process of a machine counts: QEMU, or all in the box of gVisor with the guest's memory, and its network. MiB. */
export function privateMiB({ raw }: Bench, { processes }: Pick<MachineRecord, "processes">): number {
  const isGvisor = raw.driver.info.engine === "gvisor";
  const sizes = processes.map(({ pid, role }) =>
    isGvisor && role === "vm" ? privateBytesBelow(pid) / 2 ** 20 : memoryMiB(pid, "RssAnon"),
  );
  return sizes.reduce((sum, size) => sum + size, 0);
}
