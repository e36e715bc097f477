/**
 * Runs the making of a disk in a process of its own: it works for seconds without a pause, takes memory by the number of
 * files, and reads what strangers wrote.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { rm } from "node:fs/promises";
import { extname } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { DomainError } from "../../errors.ts";
import { type DiskEvent, type DiskOrderMessage, eventSchema } from "./messages.ts";

export type DiskResult = Omit<Extract<DiskEvent, { kind: "made" }>, "kind">;

/** An image with two million entries takes half of it. */
const maxHeapMiB = 2048;
const maxComplaintLength = 4000;

/**
 * Makes the disk.
 * @param mayGoOn called now and then while it is written; what it throws ends the work
 * @throws DomainError `failed_precondition` and `unsupported` about the image, `disk_pressure`, `machine_failed` when the
 *   process ends otherwise; the signal's reason. Nothing is left of the target then.
 */
export async function makeDiskInProcess(
  order: DiskOrderMessage,
  progress: (line: string) => void,
  signal: AbortSignal,
  mayGoOn: () => Promise<void>,
): Promise<DiskResult> {
  try {
    return await run(order, progress, signal, mayGoOn);
  } catch (error) {
    await rm(order.target, { force: true });
    throw error;
  }
}

async function run(
  order: DiskOrderMessage,
  progress: (line: string) => void,
  signal: AbortSignal,
  mayGoOn: () => Promise<void>,
): Promise<DiskResult> {
  const program = fileURLToPath(new URL(`worker${extname(import.meta.url)}`, import.meta.url));
  const args = [...process.execArgv, `--max-old-space-size=${maxHeapMiB}`, program];
  const child = spawn(process.execPath, args, { stdio: ["pipe", "pipe", "pipe"], env: { PATH: process.env.PATH } });
  const end = () => child.kill("SIGKILL");
  signal.addEventListener("abort", end, { once: true });
  if (signal.aborted) end();
  const closed = once(child, "close") as Promise<[code: number | null, signal: string | null]>;
  let complaint = "";
  child.stderr.on("data", (bytes: Buffer) => {
    complaint = (complaint + bytes.toString()).slice(-maxComplaintLength);
  });
  // A process that is gone reads no order; how it ended says why.
  child.stdin.on("error", () => {});
  child.stdin.end(JSON.stringify(order));
  let last: DiskEvent | undefined;
  try {
    for await (const line of createInterface({ input: child.stdout })) {
      const event = eventSchema.parse(JSON.parse(line));
      if (event.kind === "progress") progress(event.line);
      else if (event.kind === "wrote") await mayGoOn();
      else last = event;
    }
    const [code, killedBy] = await closed;
    signal.throwIfAborted();
    if (last?.kind === "made") return last;
    if (last?.kind === "failed") throw new DomainError(last.code, last.message);
    throw new DomainError(
      "machine_failed",
      `the image cannot be unpacked: its process ended with ${code ?? killedBy}`,
      {
        complaint,
      },
    );
  } finally {
    signal.removeEventListener("abort", end);
    end();
    await closed;
  }
}
