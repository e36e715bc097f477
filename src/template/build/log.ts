/**
 * The log of one build. Entries are only appended, because clients page through the log by counting them. The log is
 * bounded: output that comes after it is full is left out. The last entries are also kept apart, because they say why a
 * step failed.
 */
import type { Clock } from "../../clock.ts";
import type { BuildLogEntry, BuildLogLevel } from "../../ledger/template-builds.ts";

const maxEntries = 10_000;
const maxBytes = 1024 * 1024;
const maxLineBytes = 8 * 1024;
const tailEntries = 50;

export class BuildLog {
  readonly #clock: Clock;
  readonly #entries: BuildLogEntry[] = [];
  /** The newest entries of the step under way, whether they are in `#entries` or were left out. */
  #tail: BuildLogEntry[] = [];
  #bytes = 0;
  #full = false;
  #step: string | undefined;
  #label = "";

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get entries(): readonly BuildLogEntry[] {
    return this.#entries;
  }

  /** The last entries of the step under way. */
  get tail(): readonly BuildLogEntry[] {
    return this.#tail;
  }

  /** `base`, the 1-based number of a step, or `finalize`. */
  get step(): string | undefined {
    return this.#step;
  }

  /** @param label goes before the output of the step's commands */
  beginStep(step: string, label = ""): void {
    this.#step = step;
    this.#label = label;
    this.#tail = [];
  }

  /** A line that a command wrote. @param label instead of that of the step */
  addOutput(channel: "stdout" | "stderr", line: string, label = this.#label): void {
    this.add(channel === "stderr" ? "warn" : "info", `${label === "" ? "" : `${label} `}[${channel}]: ${line}`);
  }

  add(level: BuildLogLevel, message: string): void {
    const text = message.length > maxLineBytes ? `${message.slice(0, maxLineBytes)}…` : message;
    const entry: BuildLogEntry = {
      atMs: this.#clock.nowMs(),
      level,
      message: text,
      ...(this.#step !== undefined && { step: this.#step }),
    };
    this.#tail.push(entry);
    if (this.#tail.length > tailEntries) this.#tail.shift();
    if (this.#full) return;
    this.#bytes += text.length;
    this.#full = this.#entries.length + 1 >= maxEntries || this.#bytes > maxBytes;
    this.#entries.push(
      this.#full ? { ...entry, level: "warn", message: "the log is full; the rest is left out" } : entry,
    );
  }
}

/** Cuts a stream of output into lines for a log. Control characters except tabs are dropped, long lines are cut. */
export class LineSplitter {
  readonly #onLine: (line: string) => void;
  readonly #decoder = new TextDecoder();
  #rest = "";

  constructor(onLine: (line: string) => void) {
    this.#onLine = onLine;
  }

  push(bytes: Uint8Array): void {
    const lines = (this.#rest + this.#decoder.decode(bytes, { stream: true })).split(/\r?\n/);
    this.#rest = lines.pop() ?? "";
    for (const line of lines) this.#emit(line);
    if (this.#rest.length > maxLineBytes) this.end();
  }

  /** Gives the unfinished line at the end of the output. */
  end(): void {
    if (this.#rest !== "") this.#emit(this.#rest);
    this.#rest = "";
  }

  #emit(line: string): void {
    // A progress bar draws over itself, so only its last state counts.
    const visible = line.slice(line.lastIndexOf("\r") + 1);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are removed here
    this.#onLine(visible.replaceAll(/\u001b\[[0-9;?]*[A-Za-z]|[\u0000-\u0008\u000b-\u001f\u007f]/g, ""));
  }
}
