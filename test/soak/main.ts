/** `npm run soak`: a soak of `--minutes N` (default 30), and its report. Fails when anything is left or unexplained. */
import { parseArgs } from "node:util";
import { type SoakResult, soak } from "./soak.ts";

/** A heap grows and shrinks. Growth below this over a whole run counts as none. */
const flatMiB = 48;

const { values } = parseArgs({ options: { minutes: { type: "string", default: "30" } }, strict: true });
const minutes = Number(values.minutes);
if (!(minutes > 0)) throw new Error("usage: npm run soak -- [--minutes N]");

const result = await soak({ minutes, report: (line) => process.stderr.write(`${line}\n`) });
process.stdout.write(describe(result));
const clean =
  result.unexplained.length === 0 && result.leftovers.length === 0 && result.leftFds === 0 && result.leftBytes === 0;
process.exitCode = clean && growth(result) < flatMiB ? 0 : 1;

function growth({ slopeMiBPerMinute }: SoakResult): number {
  return slopeMiBPerMinute * minutes;
}

function describe(result: SoakResult): string {
  const { done, interrupted, refused, unexplained, kills, startMiB, endMiB, slopeMiBPerMinute } = result;
  const counts = Object.entries(done).map(([name, n]) => `${name} ${n}`);
  const mib = (value: number) => value.toFixed(1);
  return `${[
    `${minutes} min: ${counts.join(", ")}`,
    `daemon killed ${kills} times: ${interrupted} jobs interrupted, ${refused} refused for want of capacity`,
    `unexplained errors: ${unexplained.length}`,
    ...unexplained,
    `resident memory: ${mib(startMiB)} MiB → ${mib(endMiB)} MiB, ${slopeMiBPerMinute.toFixed(2)} MiB per minute`,
    `left: ${result.leftBytes} bytes of snapshots, ${result.leftFds} open files, ${result.leftovers.length} other things`,
    ...result.leftovers,
  ].join("\n")}\n`;
}
