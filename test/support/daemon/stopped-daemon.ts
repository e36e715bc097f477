/** A daemon that an ordered fault has stopped with SIGSTOP at its step. */
import { readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";

/**
 * Waits until a daemon stands still.
 * @throws Error when it has ended, or when it goes on for longer than `timeoutMs`
 */
export async function untilStopped(pid: number, timeoutMs: number): Promise<void> {
  const end = performance.now() + timeoutMs;
  while (!/^State:\s+T/m.test(readFileSync(`/proc/${pid}/status`, "utf8"))) {
    if (performance.now() > end) throw new Error("the daemon never came to that step");
    await delay(5);
  }
}
