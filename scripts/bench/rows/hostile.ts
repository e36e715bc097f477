/**
 * The rows of hostile guests: what others wait while five guests flood the daemon through their links, beside what they
 * wait while five guests merely compute, which takes the same processors away from them.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { repository } from "../../pages/page.mjs";
import { type Bench, type RowFamily, settle, timeMs } from "../bench.ts";
import type { BenchSandbox, E2bClient } from "../e2b-client.ts";
import { distributionOf, type Row } from "../statistics.ts";

const goalRatio = 2;
const guests = 5;
const program = "test/support/guest/hostile_agent.py";
/** The program that a guest runs to take its link over, with DATA of one byte, which the protocol allows. */
const mode = "tiny";
const takeOverDeadlineMs = 120_000;
const computing = "while :; do :; done";

interface Waits {
  readonly healthMs: number[];
  readonly createMs: number[];
}

export const hostileRows: RowFamily = {
  name: "hostile",
  async measure(bench) {
    bench.progress("health and creates beside nothing");
    const quiet = await sample(bench);
    bench.progress(`health and creates beside ${guests} guests that compute`);
    const beside = await sampleBeside(bench, (sandbox) => bench.daemon.client.background(sandbox, computing));
    bench.progress(`health and creates beside ${guests} hostile guests`);
    const hostile = await sampleBeside(bench, (sandbox) => turnHostile(bench, sandbox));
    return [
      rowOf("GET /health", hostile.healthMs, beside.healthMs, quiet.healthMs),
      rowOf("create, pool empty,", hostile.createMs, beside.createMs, quiet.createMs),
    ];
  },
};

function rowOf(what: string, hostile: number[], beside: number[], quiet: number[]): Row {
  const [measured, raw] = [distributionOf(hostile), distributionOf(beside)];
  const ratio = measured.p50 / raw.p50;
  return {
    what: `${what} beside ${guests} hostile guests (raw: beside ${guests} that compute)`,
    goal: `≤ ${goalRatio} × raw`,
    unit: "ms",
    measured,
    raw,
    result: `${ratio.toFixed(2)} × raw (beside nothing: ${distributionOf(quiet).p50.toFixed(1)} ms)`,
    met: ratio <= goalRatio,
  };
}

/** Samples while that many guests are at work, and kills them. */
async function sampleBeside(bench: Bench, begin: (sandbox: BenchSandbox) => Promise<unknown>): Promise<Waits> {
  const { client } = bench.daemon;
  const sandboxes: BenchSandbox[] = [];
  try {
    for (let n = 0; n < guests; n++) sandboxes.push(await client.create());
    for (const sandbox of sandboxes) await begin(sandbox);
    await delay(1_000);
    return await sample(bench);
  } finally {
    await Promise.all(sandboxes.map((sandbox) => client.kill(sandbox)));
    await settle();
  }
}

async function sample({ daemon: { client }, quick }: Bench): Promise<Waits> {
  const waits: Waits = { healthMs: [], createMs: [] };
  for (let n = 0; n < (quick ? 5 : 30); n++) {
    let sandbox: BenchSandbox | undefined;
    for (let request = 0; request < 20; request++) waits.healthMs.push(await timeMs(() => client.health()));
    waits.createMs.push(
      await timeMs(async () => {
        sandbox = await client.create();
      }),
    );
    if (sandbox) await client.kill(sandbox);
    await settle();
  }
  return waits;
}

/** Takes the link of the guest over, and starts commands that the guest floods: one is read, and one is left. */
async function turnHostile({ daemon: { client } }: Bench, sandbox: BenchSandbox): Promise<void> {
  await client.upload(sandbox, "/tmp/hostile_agent.py", await readFile(join(repository(), program)));
  await client.background(sandbox, `python3 /tmp/hostile_agent.py ${mode}`, "root");
  await takenOver(client, sandbox);
  await client.background(sandbox, "flood");
  // The command never ends well, because its sandbox is killed under it.
  client.drain(sandbox, "flood").catch(() => {});
}

/** Resolves when the program answers in place of the agent, which alone knows how to read a file. */
async function takenOver(client: E2bClient, sandbox: BenchSandbox): Promise<void> {
  const deadlineMs = performance.now() + takeOverDeadlineMs;
  while (performance.now() < deadlineMs) {
    const answer = await client.download(sandbox, "/etc/hostname").then(String, String);
    if (answer.includes("answered unsupported")) return;
    await delay(500);
  }
  throw new Error("the guest did not turn hostile");
}
