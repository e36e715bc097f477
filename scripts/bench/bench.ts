/** The contract of the rows of the bench: what each one gets, and the rows that it returns. */
import { setTimeout as delay } from "node:timers/promises";
import type { BenchDaemon } from "./bench-daemon.ts";
import type { RawEngine } from "./raw-engine.ts";
import type { Row } from "./statistics.ts";

export interface Bench {
  readonly daemon: BenchDaemon;
  readonly raw: RawEngine;
  /** Few samples, to see that everything works; its numbers are not to be shown. */
  readonly quick: boolean;
  /** Processors of this host. */
  readonly cores: number;
  /** Shows what the bench measures now. */
  readonly progress: (what: string) => void;
}

/** The rows that are measured together; `--rows` selects them by `name`. */
export interface RowFamily {
  readonly name: string;
  readonly measure: (bench: Bench) => Promise<Row[]>;
}

/**
 * Lets a sample's background work end before the next begins: machines that were killed, and the network that both
 * engines start ahead 300 ms after a restore took the last one.
 */
export const settle = () => delay(400);

/** The duration of `work`, ms. */
export async function timeMs(work: () => Promise<unknown>): Promise<number> {
  const startedMs = performance.now();
  await work();
  return performance.now() - startedMs;
}
