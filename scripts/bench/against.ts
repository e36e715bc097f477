/**
 * What an SDK sees of two servers that speak E2B's API, in turn: this daemon and another one, which may be a peer or E2B
 * itself. The SDK is the published one, unmodified, and every sandbox that is made is killed.
 */
import { Sandbox } from "e2b";
import { distributionOf } from "./statistics.ts";

export interface Endpoint {
  readonly apiUrl: string;
  readonly apiKey: string;
  /** Where the sandboxes are reached; default: as the server's answers say. */
  readonly sandboxUrl?: string;
}

const megabyte = "x".repeat(1 << 20);
const loop = "python3 -c 'x=0\nfor i in range(3000000): x+=i'";

/** The steps of one sandbox's life, in order. Each is timed. */
const steps: readonly (readonly [what: string, step: (sandbox: Sandbox, at: Endpoint) => Promise<unknown>])[] = [
  ["first command", (sandbox) => sandbox.commands.run("echo hi")],
  ["command, warm", (sandbox) => sandbox.commands.run("echo hi")],
  ["file up, 1 MiB", (sandbox) => sandbox.files.write("/home/user/bench", megabyte)],
  ["file down, 1 MiB", (sandbox) => sandbox.files.read("/home/user/bench")],
  ["Python loop, 3 million rounds", (sandbox) => sandbox.commands.run(loop)],
  ["sha256 of 100 MB", (sandbox) => sandbox.commands.run("head -c 100000000 /dev/zero | sha256sum")],
  ["pause", (sandbox) => sandbox.pause()],
  ["resume: connect", (sandbox, at) => Sandbox.connect(sandbox.sandboxId, { ...at })],
  ["first command after it", (sandbox) => sandbox.commands.run("echo hi")],
];

/**
 * Measures both, and returns a table in Markdown.
 * @throws Error when one of them cannot do a step
 */
export async function compareEndpoints(
  own: Endpoint,
  other: Endpoint,
  rounds: number,
  progress: (what: string) => void,
): Promise<string> {
  const times = { own: new Map<string, number[]>(), other: new Map<string, number[]>() };
  for (let round = -1; round < rounds; round++) {
    progress(`round ${round + 1} of ${rounds}, this daemon and ${other.apiUrl} in turn`);
    const order = round % 2 === 0 ? (["own", "other"] as const) : (["other", "own"] as const);
    for (const which of order) {
      // The first round warms both.
      await liveOnce(which === "own" ? own : other, round < 0 ? new Map() : times[which]);
    }
  }
  const cell = (samples: readonly number[] = []) => {
    const { n, p50, p95 } = distributionOf(samples);
    return `${p50.toFixed(0)} / ${p95.toFixed(0)} ms (n ${n})`;
  };
  const lines = [...times.own.keys()].map(
    (what) => `| ${what} | ${cell(times.own.get(what))} | ${cell(times.other.get(what))} |`,
  );
  return [`| p50 / p95 | this daemon | ${other.apiUrl} |`, "| --- | --- | --- |", ...lines].join("\n");
}

async function liveOnce(at: Endpoint, times: Map<string, number[]>): Promise<void> {
  const timed = async <T>(what: string, work: () => Promise<T>): Promise<T> => {
    const startedMs = performance.now();
    const result = await work();
    times.set(what, [...(times.get(what) ?? []), performance.now() - startedMs]);
    return result;
  };
  const sandbox = await timed("create", () => Sandbox.create("base", { ...at, timeoutMs: 600_000 }));
  try {
    for (const [what, step] of steps) await timed(what, () => step(sandbox, at));
  } finally {
    await timed("kill", () => sandbox.kill());
  }
}
