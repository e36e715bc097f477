/** The logger type every layer takes; `daemon.ts` makes the real one. */
import type { Logger as PinoLogger } from "pino";

export type Logger = Pick<
  PinoLogger,
  "level" | "trace" | "debug" | "info" | "warn" | "error" | "fatal" | "silent" | "child"
>;
