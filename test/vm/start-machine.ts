/** A daemon's short life: restores one machine, prints its record and is gone. */
import { pino } from "pino";
import { QemuDriver, type QemuDriverOptions } from "../../src/machine/qemu/driver.ts";
import { readSnapshot } from "../../src/machine/snapshot-files.ts";

interface Input {
  readonly options: Omit<QemuDriverOptions, "log">;
  readonly snapshotFolder: string;
  readonly sessionId: string;
}

const { options, snapshotFolder, sessionId } = JSON.parse(process.argv[2] ?? "") as Input;
const driver = await QemuDriver.open({ ...options, log: pino({ level: "silent" }) });
const vm = await driver.restore({ sessionId, snapshotFolder, manifest: await readSnapshot(snapshotFolder) });
process.stdout.write(JSON.stringify(vm.record));
process.exit(0);
