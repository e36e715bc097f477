/** The rows of many idle sandboxes: what they cost the daemon and the host, and how fast they are listed. */
import os from "node:os";
import { setTimeout as delay } from "node:timers/promises";
import type { Bench, RowFamily } from "../bench.ts";
import { BareHandler, requestsPerSecond } from "../http-load.ts";
import { privateMiB } from "../machine-memory.ts";
import { memoryMiB } from "../processes.ts";
import { distributionOf, interleave, type Row } from "../statistics.ts";

const residentGoalMiB = 150;
const sandboxGoalMiB = { kvm: 24, tcg: 72, hvf: 24, none: 18 } as const;
const listGoalPercent = 60;
const idleGoalPercent = 1;

/** The memory rows need a daemon that no other row has used, and the list needs twice as many sandboxes. */
export const fleetRows: RowFamily = {
  name: "fleet",
  async measure(bench) {
    await bench.daemon.end("SIGTERM");
    await bench.daemon.start();
    try {
      await growTo(bench, 50);
      // A sandbox is idle when the work that creates leave behind is done.
      await delay(5_000);
      const rows = [residentRow(bench), privateRow(bench), await measureIdle(bench)];
      await growTo(bench, 100);
      return [...rows, await measureList(bench)];
    } finally {
      await bench.daemon.killAll();
    }
  },
};

/** Makes sandboxes, as many at a time as there are processors, and runs one command in each. */
async function growTo({ daemon, cores, progress }: Bench, total: number): Promise<void> {
  let missing = total - (await daemon.client.list()).length;
  progress(`${missing} more sandboxes, for ${total} in all`);
  const lane = async () => {
    while (missing-- > 0) await daemon.client.command(await daemon.client.create(), "echo hi");
  };
  await Promise.all(Array.from({ length: cores }, lane));
}

function residentRow({ daemon }: Bench): Row {
  const measured = distributionOf([memoryMiB(daemon.pid, "VmRSS")]);
  return {
    what: "daemon RSS with 50 sandboxes, made and used by it",
    goal: `≤ ${residentGoalMiB} MiB`,
    unit: "MiB",
    measured,
    result: `${measured.p50.toFixed(0)} MiB`,
    met: measured.p50 <= residentGoalMiB,
  };
}

function privateRow(bench: Bench): Row {
  const goalMiB = sandboxGoalMiB[bench.raw.driver.info.acceleration];
  const measured = distributionOf(bench.daemon.machines().map(({ machine }) => privateMiB(bench, machine)));
  return {
    what: "private host memory of an idle sandbox that ran one command",
    goal: `≤ ${goalMiB} MiB`,
    unit: "MiB",
    measured,
    result: `${measured.p50.toFixed(0)} MiB`,
    met: measured.p50 <= goalMiB,
  };
}

/** What the whole host works while nothing is asked of 50 sandboxes: theirs, the daemon's and other programs'. */
async function measureIdle({ quick, progress }: Bench): Promise<Row> {
  progress("the processors, while nothing is asked of 50 sandboxes");
  const perSandbox: number[] = [];
  for (let sample = 0; sample < (quick ? 1 : 6); sample++) {
    const before = busyMs();
    const started = performance.now();
    await delay(5_000);
    perSandbox.push((100 * (busyMs() - before)) / (performance.now() - started) / 50);
  }
  const measured = distributionOf(perSandbox);
  return {
    what: "processor time of an idle sandbox, a fiftieth of the host's with 50",
    goal: `≤ ${idleGoalPercent} % of a core`,
    unit: "%",
    measured,
    result: `${measured.p50.toFixed(2)} %`,
    met: measured.p50 <= idleGoalPercent,
  };
}

/** Milliseconds that the host's processors have worked, together. */
function busyMs(): number {
  return os.cpus().reduce((sum, { times }) => sum + times.user + times.nice + times.sys + times.irq, 0);
}

async function measureList({ daemon: { client }, quick, progress }: Bench): Promise<Row> {
  progress("GET /v2/sandboxes, bare handler and daemon in turn");
  const url = `${client.url}/v2/sandboxes`;
  const headers = { "x-api-key": client.apiKey };
  await using bare = await BareHandler.start(await (await fetch(url, { headers })).text());
  const seconds = quick ? 2 : 5;
  const sample = (rounds: number) =>
    interleave(
      rounds,
      () => requestsPerSecond(bare.url, headers, seconds),
      () => requestsPerSecond(url, headers, seconds),
    );
  await sample(1);
  const samples = await sample(quick ? 2 : 6);
  const [measured, raw] = [distributionOf(samples.measured), distributionOf(samples.raw)];
  const percent = (100 * measured.p50) / raw.p50;
  return {
    what: "GET /v2/sandboxes, 100 sandboxes (raw: bare Fastify handler)",
    goal: `≥ ${listGoalPercent} % of raw`,
    unit: "req/s",
    measured,
    raw,
    result: `${percent.toFixed(0)} % of raw`,
    met: percent >= listGoalPercent,
  };
}
