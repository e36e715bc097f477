/** What a session's processes are reported to; see `sandbox-logs.ts`. */
import type { OutputChunk } from "../../guest/agent.ts";
import type { ProcessSpec } from "../../types.ts";
import type { ProcessState } from "./running-process.ts";

/** Takes down what one process does. */
export interface ProcessLog {
  output(chunk: OutputChunk): void;
  settled(state: ProcessState): void;
}

/** What a process table reports to. */
export interface SessionLog {
  /** @param spec of a process that starts now; undefined of one that an earlier daemon started. */
  follow(pid: number, spec: ProcessSpec | undefined): ProcessLog;
}
