/**
 * The logs of the sandboxes: what became of each, which commands ran in it, their output and how they ended. Lines are
 * collected in memory and written to the ledger together, so that no command waits for them. The lines of one sandbox
 * between two flushes are bounded; output beyond that is counted, and one line gives the count. This room takes down
 * what happens to sandboxes, in logs and metrics; it may call processes and sessions.
 */
import { StringDecoder } from "node:string_decoder";
import type { Clock } from "../../clock.ts";
import { isDomainError } from "../../errors.ts";
import type { Ledger } from "../../ledger/open.ts";
import { appendSandboxLogs, readSandboxLogs } from "../../ledger/sandbox-logs.ts";
import type { ProcessSpec, SandboxLogEntry } from "../../types.ts";
import type { SandboxLogsQuery } from "../contract.ts";
import type { ProcessLog, SessionLog } from "../processes/process-log.ts";

/** The bounds for the commands of one sandbox between two flushes. */
const maxPendingLines = 200;
const maxPendingBytes = 32 * 1024;
/** The lines of all sandboxes that wait when the ledger cannot be written, the newest of them. */
const maxUnwrittenLines = 10_000;
/** The arguments of a command that its line shows. */
const maxArguments = 64;
/** A longer line is cut into several. */
const maxLineCharacters = 2_048;

const levels = ["debug", "info", "warn", "error"] as const;
type Level = SandboxLogEntry["level"];
type Fields = Readonly<Record<string, string>>;

/** The lines of one sandbox since the last flush. */
interface LineBudget {
  lines: number;
  bytes: number;
  /** Output that had no room any more. */
  leftOutBytes: number;
}

export class SandboxLogs {
  readonly #ledger: Ledger;
  readonly #clock: Clock;
  #pending: SandboxLogEntry[] = [];
  readonly #budgets = new Map<string, LineBudget>();

  constructor(ledger: Ledger, clock: Clock) {
    this.#ledger = ledger;
    this.#clock = clock;
  }

  /** Adds a line about the sandbox itself to its log. */
  note(sandboxId: string, message: string, { level = "info", ...fields }: Fields & { level?: Level } = {}): void {
    this.#push(sandboxId, level, message, { logger: "sandbox", ...fields });
  }

  /** Gives the log that the commands of one sandbox report to. */
  ofSession(sandboxId: string): SessionLog {
    return { follow: (pid, spec) => this.#follow(sandboxId, pid, spec) };
  }

  /** Reads the lines so far, including those that are not in the ledger yet. */
  read(sandboxId: string, { level = "debug", ...query }: SandboxLogsQuery): SandboxLogEntry[] {
    try {
      this.flush();
    } catch (error) {
      // On a full disk the lines that are in the ledger can be read all the same.
      if (!isDomainError(error, "disk_pressure")) throw error;
    }
    return readSandboxLogs(this.#ledger, { ...query, sandboxId, levels: levels.slice(levels.indexOf(level)) });
  }

  /** Writes the pending lines to the ledger. On failure the newest 10,000 lines are kept for the next flush. */
  flush(): void {
    for (const [sandboxId, { leftOutBytes }] of this.#budgets) {
      if (leftOutBytes === 0) continue;
      const message = `${leftOutBytes} bytes of commands and their output are left out here: they came too fast`;
      this.note(sandboxId, message, { level: "warn" });
    }
    this.#budgets.clear();
    const entries = this.#pending;
    this.#pending = [];
    try {
      appendSandboxLogs(this.#ledger, entries);
    } catch (error) {
      this.#pending = entries.slice(-maxUnwrittenLines);
      throw error;
    }
  }

  #follow(sandboxId: string, pid: number, spec: ProcessSpec | undefined): ProcessLog {
    const base = { logger: "process", pid: String(pid) };
    const note = (level: Level, message: string, fields: Fields) => {
      const text = message.slice(0, maxLineCharacters);
      if (this.#take(sandboxId, text.length)) this.#push(sandboxId, level, text, { ...base, ...fields });
    };
    if (spec) note("info", `Process ${pid} started: ${commandLine(spec)}`, startFields(spec));
    const readers = { stdout: new LineReader(), stderr: new LineReader() };
    const writeLine = (event: "stdout" | "stderr") => (line: string) => note("info", line, { event });
    return {
      output: ({ channel, bytes }) => {
        // A terminal gets drawings, not lines.
        if (channel === "terminal") return;
        const room = Math.min(bytes.byteLength, this.#room(sandboxId));
        this.#leaveOut(sandboxId, bytes.byteLength - room);
        if (room > 0) readers[channel].read(bytes.subarray(0, room), writeLine(channel));
      },
      settled: (state) => {
        for (const channel of ["stdout", "stderr"] as const) readers[channel].end(writeLine(channel));
        if (state.at !== "ended") return;
        const { exitCode, exited, signal } = state.end;
        const how = exited ? `exited with ${exitCode}` : `was ended by signal ${signal ?? "unknown"}`;
        const level = exited && exitCode === 0 ? "info" : "warn";
        note(level, `Process ${pid} ${how}`, { event: "end", exitCode: String(exitCode) });
      },
    };
  }

  #push(sandboxId: string, level: Level, message: string, fields: Fields): void {
    this.#pending.push({ sandboxId, atMs: this.#clock.nowMs(), level, message, fields });
  }

  #budget(sandboxId: string): LineBudget {
    let budget = this.#budgets.get(sandboxId);
    if (!budget) {
      budget = { lines: 0, bytes: 0, leftOutBytes: 0 };
      this.#budgets.set(sandboxId, budget);
    }
    return budget;
  }

  /** How many more bytes of output may be read. */
  #room(sandboxId: string): number {
    const { lines, bytes } = this.#budget(sandboxId);
    return lines < maxPendingLines ? maxPendingBytes - bytes : 0;
  }

  /** Takes the room for one more line. False when there is none; the line is counted as left out then. */
  #take(sandboxId: string, length: number): boolean {
    const budget = this.#budget(sandboxId);
    if (budget.lines >= maxPendingLines || budget.bytes + length > maxPendingBytes) {
      budget.leftOutBytes += length;
      return false;
    }
    budget.lines += 1;
    budget.bytes += length;
    return true;
  }

  #leaveOut(sandboxId: string, bytes: number): void {
    if (bytes > 0) this.#budget(sandboxId).leftOutBytes += bytes;
  }
}

/** A line reader makes lines of a stream of bytes. */
class LineReader {
  readonly #decoder = new StringDecoder("utf8");
  #rest = "";

  read(bytes: Uint8Array, onLine: (line: string) => void): void {
    const lines = (
      this.#rest + this.#decoder.write(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength))
    ).split("\n");
    this.#rest = lines.pop() ?? "";
    for (const line of lines) for (const part of cut(line.replace(/\r$/, ""))) onLine(part);
    if (this.#rest.length > maxLineCharacters) this.#end(onLine);
  }

  end(onLine: (line: string) => void): void {
    this.#rest += this.#decoder.end();
    this.#end(onLine);
  }

  #end(onLine: (line: string) => void): void {
    if (this.#rest !== "") for (const part of cut(this.#rest)) onLine(part);
    this.#rest = "";
  }
}

function cut(line: string): string[] {
  const parts: string[] = [];
  for (let at = 0; at === 0 || at < line.length; at += maxLineCharacters)
    parts.push(line.slice(at, at + maxLineCharacters));
  return parts;
}

function commandLine({ command, args }: ProcessSpec): string {
  const quote = (word: string) => (/^[\w./:=@%+,-]+$/.test(word) ? word : JSON.stringify(word));
  return [command, ...args.slice(0, maxArguments)].map((word) => quote(word.slice(0, maxLineCharacters))).join(" ");
}

function startFields({ user, cwd, tag, terminal }: ProcessSpec): Fields {
  return {
    event: "start",
    ...(user !== undefined && { user }),
    ...(cwd !== undefined && { cwd: cwd.slice(0, maxLineCharacters) }),
    ...(tag !== undefined && { tag: tag.slice(0, maxLineCharacters) }),
    ...(terminal && { terminal: "true" }),
  };
}
