/** The line decoder cuts a byte stream into lines. Its verdict does not depend on how the bytes arrived in pieces. */
import { DomainError } from "../../errors.ts";
import { maxLineBytes } from "./helper-messages.ts";

const newline = 10;

export class LineDecoder {
  /** Pieces of the line that is not complete yet. */
  #unfinished: Buffer[] = [];
  #unfinishedBytes = 0;

  /**
   * Takes bytes that arrived and returns the lines they complete, without newlines; empty lines are left out.
   * @throws DomainError `machine_failed` for a line that is too long, as soon as it is
   */
  take(bytes: Buffer): string[] {
    const lines: string[] = [];
    let rest = bytes;
    for (let end = rest.indexOf(newline); end >= 0; end = rest.indexOf(newline)) {
      this.#add(rest.subarray(0, end));
      if (this.#unfinishedBytes > 0) lines.push(Buffer.concat(this.#unfinished).toString("utf8"));
      this.#unfinished = [];
      this.#unfinishedBytes = 0;
      rest = rest.subarray(end + 1);
    }
    this.#add(rest);
    return lines;
  }

  #add(bytes: Buffer): void {
    if (bytes.length === 0) return;
    this.#unfinishedBytes += bytes.length;
    if (this.#unfinishedBytes > maxLineBytes) {
      throw new DomainError("machine_failed", `the helper sent a line longer than ${maxLineBytes} bytes`);
    }
    this.#unfinished.push(bytes);
  }
}
