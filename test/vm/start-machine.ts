/** A program that stands for a daemon that dies: it restores one machine, prints the machine's record and exits. */
import { pino } from "pino";
import type { VmDriver } from "../../src/machine/driver.ts";
import { GvisorDriver } from "../../src/machine/gvisor/driver.ts";
import type { GvisorDriverOptions } from "../../src/machine/gvisor/host.ts";
import { QemuDriver } from "../../src/machine/qemu/driver.ts";
import type { QemuDriverOptions } from "../../src/machine/qemu/host.ts";
import { readSnapshot } from "../../src/machine/snapshot-files.ts";
import { VzDriver, type VzDriverOptions } from "../../src/machine/vz/driver.ts";

interface Snapshot {
  readonly snapshotFolder: string;
  readonly sessionId: string;
}
type Input = Snapshot &
  (
    | { readonly engine: "qemu"; readonly options: Omit<QemuDriverOptions, "log"> }
    | { readonly engine: "gvisor"; readonly options: Omit<GvisorDriverOptions, "log"> }
    | { readonly engine: "vz"; readonly options: Omit<VzDriverOptions, "log"> }
  );

const input = JSON.parse(process.argv[2] ?? "") as Input;
const { snapshotFolder, sessionId } = input;
const log = pino({ level: "silent" });
const driver = await open();
const vm = await driver.restore({ sessionId, snapshotFolder, manifest: await readSnapshot(snapshotFolder) });
process.stdout.write(JSON.stringify(vm.record));
process.exit(0);

function open(): Promise<VmDriver> {
  switch (input.engine) {
    case "qemu":
      return QemuDriver.open({ ...input.options, log });
    case "gvisor":
      return GvisorDriver.open({ ...input.options, log });
    case "vz":
      return VzDriver.open({ ...input.options, log });
  }
}
