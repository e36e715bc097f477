/** The watchdog of a boot reads the guest's console, and tells a boot that goes on from one that hangs. */
import { setTimeout as delay } from "node:timers/promises";
import { z } from "zod";
import { DomainError } from "../../errors.ts";
import { printable } from "../detached-process.ts";
import { consoleDevice } from "./arguments.ts";
import type { QmpClient } from "./qmp.ts";

/** The kernel's last line before the first program of the guest takes over. */
const handOver = "as init process";
const pollMs = 50;
const consoleBytes = 65536;

/** Takes the text that the guest printed since the last call, at most the last 64 KiB of it. */
export async function readConsole(qmp: QmpClient): Promise<string> {
  return z.string().parse(await qmp.execute("ringbuf-read", { device: consoleDevice, size: consoleBytes }));
}

/**
 * Resolves when the kernel has started the guest's first program.
 * @param silenceMs how long the console may stay silent
 * @param deadlineMs how long the boot may take
 * @throws DomainError `deadline_exceeded` quoting the end of the console
 */
export async function waitForInit(
  qmp: QmpClient,
  { silenceMs, deadlineMs }: { silenceMs: number; deadlineMs: number },
  signal?: AbortSignal,
): Promise<void> {
  const start = performance.now();
  let seen = "";
  for (let lastOutput = start; ; ) {
    signal?.throwIfAborted();
    const output = await readConsole(qmp);
    const now = performance.now();
    if (output.length > 0) lastOutput = now;
    seen = (seen + output).slice(-consoleBytes);
    if (seen.includes(handOver)) return;
    if (now - lastOutput >= silenceMs || now - start >= deadlineMs) break;
    await delay(pollMs);
  }
  const afterMs = Math.round(performance.now() - start);
  const said = printable(seen).slice(-300);
  throw new DomainError("deadline_exceeded", `the kernel hung, seen after ${afterMs} ms; its console ends: "${said}"`);
}
