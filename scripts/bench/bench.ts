/** What every row of the bench is handed, and what it gives back. */
import { setTimeout as delay } from "node:timers/promises";
import type { BenchDaemon } from "./bench-daemon.ts";
import type { RawEngine } from "./raw-engine.ts";
import type { Row } from "./statistics.ts";

export interface Bench {
  readonly daemon: BenchDaemon;
  readonly raw: RawEngine;
  /** Few samples: to see that everything works, not for numbers to show. */
  readonly quick: boolean;
  /** Processors of this host. */
  readonly cores: number;
  /** Shows what is being measured now. */
  readonly progress: (what: string) => void;
}

/** Rows that are measured together; `name` selects them with `--rows`. */
export interface RowFamily {
  readonly name: string;
  readonly measure: (bench: Bench) => Promise<Row[]>;
}

/**
 * Lets a sample's background work end before the next begins: machines that were killed, and the network that both
 * engines start ahead 300 ms after a restore took the last one.
 */
export const settle = () => delay(400);

/** How long `work` takes, ms. */
export async function timeMs(work: () => Promise<unknown>): Promise<number> {
  const startedMs = performance.now();
  await work();
  return performance.now() - startedMs;
}
