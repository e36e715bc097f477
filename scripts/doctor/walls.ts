/**
 * `node dist/scripts/doctor/walls.js MACHINES-FOLDER CACHE-FOLDER` prints as JSON which walls of the jail this host allows,
 * by raising them around a process that ends at once. The doctor runs it when the daemon is built.
 */
import { mkdir } from "node:fs/promises";
import { pino } from "pino";
import { messageOf } from "../../src/errors.ts";
import { openJail } from "../../src/machine/qemu/engines.ts";

const [machinesFolder = "", cacheFolder = ""] = process.argv.slice(2);
try {
  await mkdir(machinesFolder, { recursive: true, mode: 0o700 });
  const { jail } = await openJail({ machinesFolder, cacheFolder, log: pino({ level: "silent" }) });
  process.stdout.write(JSON.stringify({ walls: jail.walls }));
} catch (error) {
  process.stdout.write(JSON.stringify({ problem: messageOf(error) }));
}
