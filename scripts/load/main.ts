/**
 * `npm run load` has sandboxes stream all at once while requests come in at a fixed rate, on the real engine. It
 * counts what goes wrong, and watches whether the daemon's memory stays flat. It may call the daemon and the client
 * of the bench.
 */
import { writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { setTimeout as delay } from "node:timers/promises";
import { parseArgs } from "node:util";
import { BenchDaemon } from "../bench/bench-daemon.ts";
import type { BenchSandbox, E2bClient } from "../bench/e2b-client.ts";
import { memoryMiB } from "../bench/processes.ts";
import { originLine, qemuVersion, writeGenerated } from "../pages/page.mjs";
import { storageRoots } from "../setup/roots.mjs";
import { FollowedStream } from "./followed-stream.ts";
import { mixedRequests } from "./requests.ts";

const help = `usage: npm run load -- [OPTION…]

  --sandboxes N   that stream all the time, default 8
  --rate N        requests per second, default 200
  --minutes N     default 5
  --write         write the result into docs/benchmarks.md
  --json FILE     write the result there as well
`;

/** Growth of the daemon that is still called flat, MiB, because a heap grows and shrinks. */
const flatMiB = 48;
const sampleMs = 1_000;
const startsAtOnce = 2;

interface Options {
  readonly sandboxes: number;
  readonly rate: number;
  readonly minutes: number;
  readonly write: boolean;
  readonly json: string | undefined;
}

interface Load {
  readonly requests: number;
  readonly requestsPerSecond: number;
  readonly latencyMs: { readonly p50: number; readonly p99: number; readonly max: number };
  /** Answers that were not 2xx, and requests without one. */
  readonly failures: number;
  readonly streams: number;
  readonly streamedEvents: number;
  readonly brokenStreams: number;
  readonly startMiB: number;
  readonly endMiB: number;
}

/** The part of autocannon's result that is used. */
interface CannonResult {
  readonly requests: { readonly total: number; readonly average: number };
  readonly latency: { readonly p50: number; readonly p99: number; readonly max: number };
  readonly errors: number;
  readonly timeouts: number;
  readonly non2xx: number;
}

const autocannon = createRequire(import.meta.url)("autocannon") as (options: object) => Promise<CannonResult>;

function readOptions(args: readonly string[]): Options | undefined {
  const number = (name: string) => ({ type: "string", default: name }) as const;
  const options = { sandboxes: number("8"), rate: number("200"), minutes: number("5") };
  const { values } = parseArgs({
    args: [...args],
    options: { ...options, json: { type: "string" }, write: { type: "boolean" }, help: { type: "boolean" } },
    strict: true,
  });
  if (values.help) return undefined;
  const [sandboxes, rate, minutes] = [Number(values.sandboxes), Number(values.rate), Number(values.minutes)];
  if (!(sandboxes > 0 && rate > 0 && minutes > 0))
    throw new Error(`--sandboxes, --rate and --minutes take numbers above zero\n\n${help}`);
  return { sandboxes, rate, minutes, write: values.write ?? false, json: values.json };
}

const show = (what: string) => process.stderr.write(`${new Date().toISOString().slice(11, 19)}  ${what} …\n`);

async function startAll(client: E2bClient, count: number): Promise<BenchSandbox[]> {
  const sandboxes: BenchSandbox[] = [];
  let missing = count;
  const lane = async () => {
    while (missing-- > 0) sandboxes.push(await client.create());
  };
  await Promise.all(Array.from({ length: startsAtOnce }, lane));
  return sandboxes;
}

async function runLoad(daemon: BenchDaemon, { sandboxes: count, rate, minutes }: Options): Promise<Load> {
  show(`making ${count} sandboxes`);
  const sandboxes = await startAll(daemon.client, count);
  const streams = await Promise.all(sandboxes.map((sandbox) => FollowedStream.open(daemon.client.url, sandbox)));
  // The work that creates and first streams leave behind is not part of the load.
  await delay(5_000);
  const memory: number[] = [];
  const sampling = setInterval(() => memory.push(memoryMiB(daemon.pid, "VmRSS")), sampleMs);
  show(`${rate} requests per second and ${count} streams for ${minutes} min`);
  try {
    const result = await autocannon({
      url: daemon.client.url,
      connections: 20,
      overallRate: rate,
      duration: minutes * 60,
      requests: mixedRequests(daemon.client.apiKey, sandboxes),
    });
    const brokenStreams = streams.filter((stream) => stream.ended).length;
    return {
      requests: result.requests.total,
      requestsPerSecond: result.requests.average,
      latencyMs: { p50: result.latency.p50, p99: result.latency.p99, max: result.latency.max },
      failures: result.non2xx + result.errors + result.timeouts,
      streams: streams.length,
      streamedEvents: streams.reduce((sum, { events }) => sum + events, 0),
      brokenStreams,
      ...memoryEnds(memory),
    };
  } finally {
    clearInterval(sampling);
    await Promise.all(streams.map((stream) => stream.close()));
  }
}

/** The medians of the first and of the last tenth, so that one garbage collection more or less does not count. */
function memoryEnds(samples: readonly number[]): Pick<Load, "startMiB" | "endMiB"> {
  const tenth = Math.max(1, Math.floor(samples.length / 10));
  const middle = (some: readonly number[]) =>
    [...some].sort((a, b) => a - b)[Math.floor(some.length / 2)] ?? Number.NaN;
  return { startMiB: middle(samples.slice(0, tenth)), endMiB: middle(samples.slice(-tenth)) };
}

function faultsOf(load: Load): string[] {
  const faults: string[] = [];
  if (load.failures > 0) faults.push(`${load.failures} requests failed`);
  if (load.brokenStreams > 0) faults.push(`${load.brokenStreams} streams broke`);
  if (load.streamedEvents === 0) faults.push("nothing was streamed");
  if (load.endMiB - load.startMiB > flatMiB) faults.push("the daemon's memory grew");
  return faults;
}

function report({ latencyMs, ...load }: Load): string {
  return `${load.requests} requests, ${load.requestsPerSecond.toFixed(0)}/s, ${load.failures} failed; \
p50 ${latencyMs.p50} ms, p99 ${latencyMs.p99} ms, slowest ${latencyMs.max} ms
${load.streams} streams, ${load.streamedEvents} events, ${load.brokenStreams} broke
daemon: ${load.startMiB.toFixed(0)} MiB at the beginning, ${load.endMiB.toFixed(0)} MiB at the end`;
}

async function main(): Promise<number> {
  const options = readOptions(process.argv.slice(2));
  if (!options) {
    process.stdout.write(help);
    return 0;
  }
  show("starting a daemon of its own, which makes its template");
  await using daemon = await BenchDaemon.create(storageRoots().cache);
  await daemon.start();
  const load = await runLoad(daemon, options);
  const faults = faultsOf(load);
  const result = `${report(load)}\n${faults.length === 0 ? "no error, flat memory" : faults.join("; ")}\n`;
  process.stdout.write(result);
  if (options.json !== undefined) await writeFile(options.json, `${JSON.stringify(load, undefined, 2)}\n`);
  if (options.write) {
    const run = `${options.rate} requests per second for ${options.minutes} minutes`;
    const text = `${originLine(qemuVersion())} ${run}:\n\n\`\`\`text\n${result}\`\`\``;
    writeGenerated("docs/benchmarks.md", "npm run load", text);
  }
  return faults.length === 0 ? 0 : 1;
}

main().then(
  (status) => process.exit(status),
  (error: unknown) => {
    console.error(error instanceof Error ? error.stack : error);
    process.exit(1);
  },
);
