/** The interface of the log that a session's processes report to. `records/sandbox-logs.ts` implements it. */
import type { OutputChunk } from "../../guest/agent.ts";
import type { ProcessSpec } from "../../types.ts";
import type { ProcessState } from "./running-process.ts";

/** The log of one process. */
export interface ProcessLog {
  output(chunk: OutputChunk): void;
  settled(state: ProcessState): void;
}

/** The log of all processes of a session. */
export interface SessionLog {
  /** @param spec undefined for a process that an earlier daemon started */
  follow(pid: number, spec: ProcessSpec | undefined): ProcessLog;
}
