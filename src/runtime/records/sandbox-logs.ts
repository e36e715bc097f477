/**
 * The logs of sandboxes: what became of each, which commands ran in it, what they wrote and how they ended. Lines are
 * collected in memory and written to the ledger together, so that no command waits for them, and no more than a bounded
 * number of each sandbox at a time: what is beyond is counted and named.
 */
import { StringDecoder } from "node:string_decoder";
import type { Clock } from "../../clock.ts";
import { isDomainError } from "../../errors.ts";
import type { Ledger } from "../../ledger/open.ts";
import { appendSandboxLogs, readSandboxLogs } from "../../ledger/sandbox-logs.ts";
import type { ProcessSpec, SandboxLogEntry } from "../../types.ts";
import type { SandboxLogsQuery } from "../contract.ts";
import type { ProcessLog, SessionLog } from "../processes/process-log.ts";

/** Of the commands of one sandbox between two flushes. */
const maxPendingLines = 200;
const maxPendingBytes = 32 * 1024;
/** Of all sandboxes, when the ledger cannot be written. */
const maxUnwrittenLines = 10_000;
/** More arguments of a command are not shown. */
const maxArguments = 64;
/** A longer line becomes several. */
const maxLineCharacters = 2_048;

const levels = ["debug", "info", "warn", "error"] as const;
type Level = SandboxLogEntry["level"];
type Fields = Readonly<Record<string, string>>;

/** Of one sandbox since the last flush. */
interface Budget {
  lines: number;
  bytes: number;
  /** Output that found no room any more. */
  leftOutBytes: number;
}

export class SandboxLogs {
  readonly #ledger: Ledger;
  readonly #clock: Clock;
  #pending: SandboxLogEntry[] = [];
  readonly #budgets = new Map<string, Budget>();

  constructor(ledger: Ledger, clock: Clock) {
    this.#ledger = ledger;
    this.#clock = clock;
  }

  /** Notes what became of a sandbox. */
  note(sandboxId: string, message: string, { level = "info", ...fields }: Fields & { level?: Level } = {}): void {
    this.#push(sandboxId, level, message, { logger: "sandbox", ...fields });
  }

  /** For the commands of one sandbox. */
  ofSession(sandboxId: string): SessionLog {
    return { follow: (pid, spec) => this.#follow(sandboxId, pid, spec) };
  }

  /** Lines that are there by now, those that are not written yet included. */
  read(sandboxId: string, { level = "debug", ...query }: SandboxLogsQuery): SandboxLogEntry[] {
    try {
      this.flush();
    } catch (error) {
      // What is written already can be read on a full disk too.
      if (!isDomainError(error, "disk_pressure")) throw error;
    }
    return readSandboxLogs(this.#ledger, { ...query, sandboxId, levels: levels.slice(levels.indexOf(level)) });
  }

  /** Writes what is pending. What cannot be written waits for the next time, the newest of it. */
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
        // What a terminal shows is drawing, not lines.
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

  #budget(sandboxId: string): Budget {
    let budget = this.#budgets.get(sandboxId);
    if (!budget) {
      budget = { lines: 0, bytes: 0, leftOutBytes: 0 };
      this.#budgets.set(sandboxId, budget);
    }
    return budget;
  }

  /** How many more bytes may be looked at. */
  #room(sandboxId: string): number {
    const { lines, bytes } = this.#budget(sandboxId);
    return lines < maxPendingLines ? maxPendingBytes - bytes : 0;
  }

  /** Makes room for one more line; false, and counted, when there is none. */
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

/** Makes lines of a stream of bytes. */
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
