/** Statistics of the bench: percentiles by nearest rank, and the rows of its table. */
export interface Distribution {
  readonly n: number;
  readonly p50: number;
  readonly p95: number;
  readonly p99: number;
}

export function distributionOf(samples: readonly number[]): Distribution {
  const sorted = [...samples].sort((a, b) => a - b);
  const at = (p: number) => sorted[Math.max(0, Math.ceil((p / 100) * sorted.length) - 1)] ?? Number.NaN;
  return { n: sorted.length, p50: at(50), p95: at(95), p99: at(99) };
}

/** One line of the table. Ratios and differences are the promise, because absolute times vary with the machine. */
export interface Row {
  readonly what: string;
  /** The goal, as design section 6 words it. */
  readonly goal: string;
  readonly unit: "ms" | "MB/s" | "req/s" | "MiB" | "s" | "%";
  readonly measured: Distribution;
  /** The same without the daemon, in the same run. */
  readonly raw?: Distribution;
  /** The value that the goal limits, e.g. `1.12 × raw`. */
  readonly result: string;
  readonly met: boolean;
}

const digits = (value: number) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2));

function cells({ n, p50, p95, p99 }: Distribution): string {
  const shown = [digits(p50), n >= 100 ? digits(p95) : "", n >= 500 ? digits(p99) : ""].filter((text) => text !== "");
  return `${shown.join(" / ")} (n ${n})`;
}

/** Measures both in turn, so that both meet the same noise of the machine. The first one changes every round. */
export async function interleave<T>(
  rounds: number,
  raw: () => Promise<T>,
  measured: () => Promise<T>,
): Promise<{ readonly raw: T[]; readonly measured: T[] }> {
  const samples = { raw: [] as T[], measured: [] as T[] };
  for (let round = 0; round < rounds; round++) {
    if (round % 2 === 0) samples.raw.push(await raw());
    samples.measured.push(await measured());
    if (round % 2 === 1) samples.raw.push(await raw());
  }
  return samples;
}

/** What was measured on one engine. */
export interface EngineRun {
  readonly engine: string;
  /** Name, version and acceleration of the engine. */
  readonly description: string;
  readonly rows: readonly Row[];
}

/**
 * A Markdown table, with a group of columns for each engine; p95 is shown from 100 samples on, p99 from 500. Rows stand
 * side by side by what they measure.
 */
export function tableOf(runs: readonly EngineRun[]): string {
  const several = runs.length > 1;
  const columns = runs.flatMap(({ engine }) => {
    const of = several ? `${engine}: ` : "";
    return [`${of}goal`, `${of}p50 / p95 / p99`, `${of}raw`, `${of}result`, `${of}met`];
  });
  const names = [...new Set(runs.flatMap(({ rows }) => rows.map(({ what }) => what)))];
  const lines = names.map((name) => {
    const found = runs.map(({ rows }) => rows.find(({ what }) => what === name));
    return [name, ...found.flatMap((row) => (row ? columnsOf(row) : Array<string>(5).fill("–")))];
  });
  const header = ["what", ...columns];
  return [header, header.map(() => "---"), ...lines].map((line) => `| ${line.join(" | ")} |`).join("\n");
}

function columnsOf({ goal, unit, measured, raw, result, met }: Row): string[] {
  const baseline = raw ? `${cells(raw)} ${unit}` : "–";
  return [goal, `${cells(measured)} ${unit}`, baseline, result, goal === "–" ? "–" : met ? "yes" : "no"];
}
