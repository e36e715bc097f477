/**
 * The watchdog of a boot reads the guest's console, and tells a boot that goes on from one that hangs. On a busy host a
 * boot may take any time, so it is judged by the processor time that its engine uses.
 */
import { setTimeout as delay } from "node:timers/promises";
import { z } from "zod";
import { DomainError, isDomainError } from "../../errors.ts";
import type { ProcessIdentity } from "../../types.ts";
import { printable } from "../detached-process.ts";
import { cpuTimeOf, waitedForProcessorMs } from "../processes.ts";
import { consoleDevice } from "./arguments.ts";
import { blockedStatus, queryStatus } from "./launch.ts";
import type { QmpClient } from "./qmp.ts";

/** The kernel's last line before the first program of the guest takes over. */
const handOver = "as init process";
const pollMs = 50;
const consoleBytes = 65536;

/** How much processor time a boot may use, milliseconds: without a word, and altogether. */
export interface BootLimits {
  readonly silentMs: number;
  readonly wholeMs: number;
}
/** On an idle host a boot under TCG takes a second and is never silent for half of one. */
const usualLimits: BootLimits = { silentMs: 8_000, wholeMs: 60_000 };
/** A machine that neither works nor waits for a processor stands still. Shares of the time. */
const idleShare = 0.1;
/** Whatever its engine does, a boot is not waited for longer. Wall time, milliseconds. */
const longestMs = { silent: 120_000, whole: 600_000 } as const;

/** What an engine did in some time, all in milliseconds. */
export interface EngineWork {
  readonly wallMs: number;
  /** Processor time that it used. Undefined: nobody knows, and all of the time is taken for used. */
  readonly cpuMs: number | undefined;
  /** Time in which its threads could work, and all processors were busy with something else. */
  readonly waitedMs: number;
}

/** Decides about a boot, by the work since the guest's last words and since its beginning. Pure. */
export function judgeBoot(silent: EngineWork, whole: EngineWork, limits = usualLimits): "goes_on" | "hung" {
  const cpuMs = (work: EngineWork) => work.cpuMs ?? work.wallMs;
  if (cpuMs(silent) >= limits.silentMs || cpuMs(whole) >= limits.wholeMs) return "hung";
  if (silent.wallMs >= longestMs.silent || whole.wallMs >= longestMs.whole) return "hung";
  const isIdle = cpuMs(silent) + silent.waitedMs < silent.wallMs * idleShare;
  return isIdle && silent.wallMs >= limits.silentMs ? "hung" : "goes_on";
}

/** Takes the text that the guest printed since the last call, at most the last 64 KiB of it. */
export async function readConsole(qmp: Pick<QmpClient, "execute">): Promise<string> {
  return z.string().parse(await qmp.execute("ringbuf-read", { device: consoleDevice, size: consoleBytes }));
}

/** Reads what an engine has done so far. */
type ReadWork = () => EngineWork;

/** Reads the work of a process. The times begin anywhere; only differences have a meaning. */
export function workOf(engine: ProcessIdentity): EngineWork {
  return { wallMs: performance.now(), cpuMs: cpuTimeOf(engine), waitedMs: waitedForProcessorMs(engine) };
}

export interface BootWatch {
  readonly readWork: ReadWork;
  /** Default: those of a boot under emulation. */
  readonly limits?: BootLimits;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Resolves when the kernel has started the guest's first program.
 * @throws DomainError `deadline_exceeded` quoting the end of the console; `disk_pressure` when the host's disk is full
 */
export async function waitForInit(
  qmp: Pick<QmpClient, "execute">,
  { readWork, limits, signal }: BootWatch,
): Promise<void> {
  const begun = readWork();
  let seen = "";
  let now = begun;
  for (let lastOutput = begun; ; ) {
    signal?.throwIfAborted();
    const output = await readUnlessBusy(qmp);
    now = readWork();
    if (output.length > 0) lastOutput = now;
    seen = (seen + output).slice(-consoleBytes);
    if (seen.includes(handOver)) return;
    if (judgeBoot(between(lastOutput, now), between(begun, now), limits) === "hung") break;
    await delay(pollMs);
  }
  if ((await queryStatus(qmp)) === blockedStatus) {
    throw new DomainError("disk_pressure", "a machine cannot boot, because no space is left on the host's disk");
  }
  const { wallMs, cpuMs = Number.NaN } = between(begun, now);
  const after = `${Math.round(wallMs)} ms, in which it had ${Math.round(cpuMs)} ms of processor time`;
  const said = printable(seen).slice(-300);
  throw new DomainError("deadline_exceeded", `the kernel hung, seen after ${after}; its console ends: "${said}"`);
}

/** An engine that is too busy to answer has said nothing. */
async function readUnlessBusy(qmp: Pick<QmpClient, "execute">): Promise<string> {
  try {
    return await readConsole(qmp);
  } catch (error) {
    if (isDomainError(error, "deadline_exceeded")) return "";
    throw error;
  }
}

function between(from: EngineWork, to: EngineWork): EngineWork {
  const cpuMs = from.cpuMs === undefined || to.cpuMs === undefined ? undefined : to.cpuMs - from.cpuMs;
  // A thread that has ended takes what it waited with it.
  return { wallMs: to.wallMs - from.wallMs, cpuMs, waitedMs: Math.max(0, to.waitedMs - from.waitedMs) };
}
