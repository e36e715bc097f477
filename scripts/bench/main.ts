/**
 * `npm run bench`: the numbers of design section 6, each beside its raw baseline taken in the same run and in turn with
 * it, because the ratio holds where absolute times do not.
 */
import { writeFile } from "node:fs/promises";
import { availableParallelism, homedir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Scope } from "../../src/scope.ts";
import type { Bench, RowFamily } from "./bench.ts";
import { BenchDaemon } from "./bench-daemon.ts";
import { describeHost, hostLine } from "./host.ts";
import { RawEngine } from "./raw-engine.ts";
import { burstRows } from "./rows/burst.ts";
import { commandRows } from "./rows/commands.ts";
import { createRows } from "./rows/create.ts";
import { fileRows } from "./rows/files.ts";
import { fleetRows } from "./rows/fleet.ts";
import { killRows } from "./rows/kill.ts";
import { pauseRows } from "./rows/pause.ts";
import { poolRows } from "./rows/pool.ts";
import { restartRows } from "./rows/restart.ts";
import { type Row, tableOf } from "./statistics.ts";

/** The pool comes last: it restarts the daemon with other settings. */
const families: readonly RowFamily[] = [
  createRows,
  commandRows,
  killRows,
  pauseRows,
  burstRows,
  fileRows,
  restartRows,
  fleetRows,
  poolRows,
];

const help = `usage: npm run bench -- [OPTION…]

  --rows a,b    only these: ${families.map(({ name }) => name).join(", ")}
  --quick       few samples, to see that everything works
  --json FILE   write the results there as well
`;

interface Options {
  readonly selected: readonly RowFamily[];
  readonly quick: boolean;
  readonly json: string | undefined;
}

function readOptions(args: readonly string[]): Options | undefined {
  const string = { type: "string" } as const;
  const boolean = { type: "boolean", default: false } as const;
  const options = { rows: string, json: string, quick: boolean, help: boolean };
  const { values } = parseArgs({ args: [...args], options, strict: true });
  if (values.help) return undefined;
  const names = values.rows?.split(",") ?? families.map(({ name }) => name);
  const unknown = names.filter((name) => !families.some((family) => family.name === name));
  if (unknown.length > 0) throw new Error(`there are no rows ${unknown.join(", ")}\n\n${help}`);
  const selected = families.filter(({ name }) => names.includes(name));
  return { selected, quick: values.quick, json: values.json };
}

const show = (what: string) => process.stderr.write(`${new Date().toISOString().slice(11, 19)}  ${what} …\n`);

/** Measures inside `scope`, which holds everything that must be ended and removed. */
async function runBench({ selected, quick, json }: Options, scope: Scope): Promise<void> {
  const cacheDir = process.env.FIRKIN_CACHE_DIR ?? join(homedir(), ".firkin", "cache");
  show("starting a daemon of its own, which makes its template");
  const daemon = await BenchDaemon.create(cacheDir);
  scope.use(daemon);
  await daemon.start();
  const raw = await RawEngine.open(daemon.stateDir, cacheDir);
  scope.use(raw);
  const bench: Bench = { daemon, raw, quick, cores: availableParallelism(), progress: show };
  const host = describeHost(raw.driver.info);
  const rows: Row[] = [];
  for (const family of selected) rows.push(...(await family.measure(bench)));
  const warning = quick ? "\n`--quick`: too few samples to show.\n" : "";
  process.stdout.write(`\n${hostLine(host)}\n${warning}\n${tableOf(rows)}\n`);
  if (json !== undefined) await writeFile(json, `${JSON.stringify({ host, quick, rows }, undefined, 2)}\n`);
}

/** Resolves with the exit status of whoever is interrupted. */
function interrupted(): Promise<number> {
  return new Promise((resolve) => {
    process.on("SIGINT", () => resolve(130));
    process.on("SIGTERM", () => resolve(143));
  });
}

async function main(): Promise<number> {
  const options = readOptions(process.argv.slice(2));
  if (!options) {
    process.stdout.write(help);
    return 0;
  }
  const scope = new Scope();
  try {
    return await Promise.race([runBench(options, scope).then(() => 0), interrupted()]);
  } finally {
    show("ending what was started");
    await scope.close();
  }
}

main().then(
  // A row that was interrupted has nothing left to wait for.
  (status) => process.exit(status),
  (error: unknown) => {
    console.error(error instanceof Error ? error.stack : error);
    process.exit(1);
  },
);
