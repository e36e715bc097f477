/** The log: the logger type that every layer takes, and the logger that `daemon.ts` opens. */
import { mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import { type DestinationStream, type Logger as PinoLogger, pino } from "pino";
import roll from "pino-roll";

export type Logger = Pick<
  PinoLogger,
  "level" | "trace" | "debug" | "info" | "warn" | "error" | "fatal" | "silent" | "child"
>;

export interface LogOptions {
  readonly level: string;
  /** Absolute path; undefined: stderr. Lines of `a.log` go to `a.1.log`, and to the next number when that is full. */
  readonly file: string | undefined;
  /** Default 16 MiB. */
  readonly maxFileBytes?: number;
}

export interface OpenedLog extends AsyncDisposable {
  readonly log: PinoLogger;
}

/** Full files that are kept, besides the file that is written to. */
const keptFiles = 4;
const defaultFileBytes = 16 << 20;

/**
 * Opens the log. Its disposal resolves when every line is written. @throws the error of a file that cannot be opened
 */
export async function openLog({ level, file, maxFileBytes = defaultFileBytes }: LogOptions): Promise<OpenedLog> {
  if (file === undefined) {
    const log = pino({ level }, pino.destination({ dest: 2, sync: false }));
    return { log, [Symbol.asyncDispose]: () => flushed(log) };
  }
  await mkdir(dirname(file), { recursive: true, mode: 0o700 });
  const size = `${Math.ceil(maxFileBytes / 1024)}k`;
  const stream = await roll({ file, size, mode: 0o600, limit: { count: keptFiles, removeOtherLogFiles: true } });
  // A log that cannot be written, because the disk is full, must not end the daemon.
  stream.on("error", (error) => process.stderr.write(`firkin: the log ${file} cannot be written: ${error.message}\n`));
  const log = pino({ level }, stream satisfies DestinationStream);
  return {
    log,
    async [Symbol.asyncDispose]() {
      await flushed(log);
      const closed = new Promise((resolve) => stream.once("close", resolve));
      stream.end();
      await closed;
    },
  };
}

function flushed(log: PinoLogger): Promise<void> {
  return new Promise((resolve) => log.flush(() => resolve()));
}
