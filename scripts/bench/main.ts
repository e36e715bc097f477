/**
 * `npm run bench` measures a daemon of its own: each number stands beside its raw baseline, taken in the same run and
 * in turn with it, because the ratio holds where absolute times do not. The bench may call the compiled daemon as a
 * process, and the engine and guest link of `src/` for the raw baseline.
 */
import { writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { Scope } from "../../src/scope.ts";
import { originLine, writeGenerated } from "../pages/page.mjs";
import { storageRoots } from "../setup/roots.mjs";
import { compareEndpoints, type Endpoint } from "./against.ts";
import type { Bench, RowFamily } from "./bench.ts";
import { BenchDaemon } from "./bench-daemon.ts";
import { RawEngine } from "./raw-engine.ts";
import { burstRows } from "./rows/burst.ts";
import { commandRows } from "./rows/commands.ts";
import { computeRows } from "./rows/compute.ts";
import { createRows } from "./rows/create.ts";
import { fileRows } from "./rows/files.ts";
import { fleetRows } from "./rows/fleet.ts";
import { hostileRows } from "./rows/hostile.ts";
import { imageRows } from "./rows/images.ts";
import { interpreterRows } from "./rows/interpreter.ts";
import { jailRows } from "./rows/jail.ts";
import { killRows } from "./rows/kill.ts";
import { pauseRows } from "./rows/pause.ts";
import { poolRows } from "./rows/pool.ts";
import { restartRows } from "./rows/restart.ts";
import { writtenRows } from "./rows/written.ts";
import { type EngineRun, type Row, tableOf } from "./statistics.ts";

/** The pool comes last: it restarts the daemon with other settings. */
const families: readonly RowFamily[] = [
  createRows,
  jailRows,
  commandRows,
  killRows,
  pauseRows,
  writtenRows,
  burstRows,
  fileRows,
  computeRows,
  restartRows,
  fleetRows,
  hostileRows,
  imageRows,
  poolRows,
];

/** Rows that are measured only when they are named, because their template takes minutes to make. */
const byName: readonly RowFamily[] = [interpreterRows];

const help = `usage: npm run bench -- [OPTION…]

  --rows a,b    only these: ${[...families, ...byName].map(({ name }) => name).join(", ")}
  --quick       few samples, to see that everything works
  --write       write docs/benchmarks.md also after --rows or --quick; a whole run always writes it
  --json FILE   write the results there as well
  --engine E    measure this engine and not the one that the daemon chooses; gvisor,qemu measures both, one after the
                other, and shows them side by side
  --against URL --key KEY
                measure what an SDK sees of another server that speaks E2B's API, in turn with this daemon
  --sandbox-url URL
                where that server's sandboxes are reached, if not at their own names; for a firkin it is its URL
`;

interface Options {
  readonly selected: readonly RowFamily[];
  readonly quick: boolean;
  /** Whether docs/benchmarks.md gets the result. */
  readonly write: boolean;
  readonly json: string | undefined;
  /** Each is measured with a daemon of its own. `auto` is what a daemon chooses by itself. */
  readonly engines: readonly string[];
  readonly against: Endpoint | undefined;
}

function readOptions(args: readonly string[]): Options | undefined {
  const string = { type: "string" } as const;
  const boolean = { type: "boolean", default: false } as const;
  const options = {
    ...{ rows: string, json: string, engine: string, against: string, key: string, "sandbox-url": string },
    ...{ quick: boolean, write: boolean, help: boolean },
  };
  const { values } = parsedOr(() => parseArgs({ args: [...args], options, strict: true }));
  if (values.help) return undefined;
  const names = values.rows?.split(",") ?? families.map(({ name }) => name);
  const known = [...families, ...byName];
  const unknown = names.filter((name) => !known.some((family) => family.name === name));
  if (unknown.length > 0) throw new UsageError(`there are no rows ${unknown.join(", ")}`);
  const selected = known.filter(({ name }) => names.includes(name));
  if ((values.against === undefined) !== (values.key === undefined))
    throw new UsageError("--against needs --key, and --key needs --against");
  if (values.against === undefined && values["sandbox-url"] !== undefined)
    throw new UsageError("--sandbox-url is for --against alone");
  const engines = (values.engine ?? "auto").split(",");
  if (values.against !== undefined && engines.length > 1)
    throw new UsageError(`--against measures one engine of this daemon, not ${engines.join(" and ")}`);
  const isWhole = values.rows === undefined && !values.quick;
  return {
    selected,
    quick: values.quick,
    write: values.write || isWhole,
    json: values.json,
    engines,
    against: values.against === undefined ? undefined : endpointOf(values.against, values.key, values["sandbox-url"]),
  };
}

/** What was typed cannot be done. It is shown with the help, and without a stack trace. */
class UsageError extends Error {}

/** @throws UsageError with what `parse` says */
function parsedOr<T>(parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

function endpointOf(apiUrl: string, apiKey = "", sandboxUrl: string | undefined): Endpoint {
  return { apiUrl, apiKey, ...(sandboxUrl === undefined ? {} : { sandboxUrl }) };
}

const show = (what: string) => process.stderr.write(`${new Date().toISOString().slice(11, 19)}  ${what} …\n`);

/** A daemon of the bench's own, and what must be ended and removed with it. */
async function startDaemon(engine: string, scope: Scope): Promise<BenchDaemon> {
  show("starting a daemon of its own, which makes its template");
  const daemon = await BenchDaemon.create(storageRoots().cache, ["--engine", engine]);
  scope.use(daemon);
  await daemon.start();
  return daemon;
}

async function runAgainst(against: Endpoint, quick: boolean, engine: string, scope: Scope): Promise<void> {
  const { client } = await startDaemon(engine, scope);
  const own = { apiUrl: client.url, sandboxUrl: client.url, apiKey: client.apiKey };
  process.stdout.write(`\n${await compareEndpoints(own, against, quick ? 5 : 30, show)}\n`);
}

async function measureEngine(
  name: string,
  { selected, quick, json }: Options,
  interruption: Scope,
): Promise<EngineRun> {
  await using scope = new Scope();
  interruption.use(scope);
  const daemon = await startDaemon(name, scope);
  const raw = await RawEngine.open(daemon.stateDir, storageRoots().cache, ["--engine", name]);
  scope.use(raw);
  const bench: Bench = { daemon, raw, quick, cores: availableParallelism(), progress: show };
  const { engine, version, acceleration } = raw.driver.info;
  const rows: Row[] = [];
  for (const family of selected) {
    rows.push(...(await family.measure(bench)));
    // A row that fails after half an hour does not take the others with it.
    if (json !== undefined) await writeFile(`${json}.${engine}.partial`, `${JSON.stringify(rows, undefined, 2)}\n`);
  }
  return { engine, description: `${engine} ${version}, ${acceleration}`, rows };
}

/** Measures inside `scope`, which holds everything that must be ended and removed. */
async function runBench(options: Options, scope: Scope): Promise<void> {
  const { quick, write, json, engines, against } = options;
  if (against !== undefined) return runAgainst(against, quick, engines[0] ?? "auto", scope);
  const runs: EngineRun[] = [];
  for (const name of engines) runs.push(await measureEngine(name, options, scope));
  const origin = originLine(runs.map(({ description }) => description).join("; "));
  const warning = quick ? "`--quick` took too few samples for numbers to show.\n\n" : "";
  const result = `${origin}\n\n${warning}${tableOf(runs)}\n`;
  process.stdout.write(`\n${result}`);
  if (json !== undefined) await writeFile(json, `${JSON.stringify({ origin, quick, runs }, undefined, 2)}\n`);
  if (write) writeGenerated("docs/benchmarks.md", "npm run bench", result);
}

/** Resolves with the exit status of an interrupted program. */
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
  // Exits at once: a row that was interrupted may never end by itself.
  (status) => process.exit(status),
  (error: unknown) => {
    if (error instanceof UsageError) {
      console.error(`${error.message}\n\n${help}`);
      process.exit(2);
    }
    console.error(error instanceof Error ? error.stack : error);
    process.exit(1);
  },
);
