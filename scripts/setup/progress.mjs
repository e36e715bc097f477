/**
 * The progress of the set-up: a live line on a terminal, elsewhere a line when a step starts and ends; and a log of
 * each step.
 */
import * as fs from "node:fs";
import { join } from "node:path";

const redrawMs = 250;

/**
 * @typedef {import("./graph.mjs").Observer} Observer
 * @implements {Observer}
 */
export class Progress {
  /** @type {Map<string, { startedAt: number, line: string, log: number }>} */
  #running = new Map();
  /** @type {NodeJS.Timeout | undefined} */
  #redraw;
  #live = process.stderr.isTTY === true;
  #logs;

  /** @param {string} logs Folder for one log per step. */
  constructor(logs) {
    this.#logs = logs;
  }

  /** @param {import("./graph.mjs").Step} step */
  started(step) {
    fs.mkdirSync(this.#logs, { recursive: true });
    const log = fs.openSync(this.logPath(step), "w");
    this.#running.set(step.name, { startedAt: performance.now(), line: "", log });
    if (this.#live) this.#redraw ??= setInterval(() => this.#draw(), redrawMs);
    else this.#print(`  … ${step.title}`);
  }

  /**
   * @param {import("./graph.mjs").Step} step
   * @param {string} line
   */
  line(step, line) {
    const entry = this.#running.get(step.name);
    if (entry === undefined) return;
    fs.writeSync(entry.log, `${line}\n`);
    entry.line = line.trim();
  }

  /** @param {import("./graph.mjs").Step} step */
  done(step) {
    this.#print(`  ✓ ${step.title} ${this.#end(step)}`);
  }

  /**
   * @param {import("./graph.mjs").Step} step
   * @param {unknown} error
   */
  failed(step, error) {
    this.#print(`  ✗ ${step.title} ${this.#end(step)}`);
    this.#print(`    ${error instanceof Error ? error.message : error}`);
    this.#print(`    log: ${this.logPath(step)}`);
    const remedy = error instanceof Error && "remedy" in error ? error.remedy : undefined;
    if (remedy) this.#print(`    → ${remedy}`);
  }

  /** Ends the live line and closes the logs of steps that were interrupted. */
  close() {
    clearInterval(this.#redraw);
    this.#erase();
    for (const { log } of this.#running.values()) fs.closeSync(log);
    this.#running.clear();
  }

  /** @param {import("./graph.mjs").Step} step */
  logPath(step) {
    return join(this.#logs, `${step.name}.log`);
  }

  /** @param {import("./graph.mjs").Step} step */
  #end(step) {
    const entry = this.#running.get(step.name);
    if (entry === undefined) return "";
    fs.closeSync(entry.log);
    this.#running.delete(step.name);
    return seconds(entry.startedAt);
  }

  /** @param {string} text */
  #print(text) {
    this.#erase();
    process.stderr.write(`${text}\n`);
  }

  #draw() {
    const parts = [...this.#running].map(([name, { startedAt, line }]) => `${name} ${seconds(startedAt)}: ${line}`);
    const width = Math.floor(((process.stderr.columns || 100) - 4) / Math.max(1, parts.length)) - 3;
    this.#erase();
    process.stderr.write(`  ${parts.map((part) => clip(part, width)).join(" · ")}`);
  }

  #erase() {
    if (this.#live) process.stderr.write("\r\x1b[2K");
  }
}

/** @param {number} startedAt */
function seconds(startedAt) {
  return `${((performance.now() - startedAt) / 1000).toFixed(1)} s`;
}

/**
 * @param {string} text
 * @param {number} width
 */
function clip(text, width) {
  // Programs colour their output; escape sequences must not be cut in half.
  const plain = text.replace(/[^\x20-\x7e\u00a0-\uffff]/g, "");
  return plain.length > width ? `${plain.slice(0, Math.max(0, width - 1))}…` : plain;
}
