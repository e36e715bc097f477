/**
 * Disk waits: a sandbox whose writes would fill the host's disk stands still until there is room, and loses nothing. The
 * engine stops a machine by itself when a write of it fails. Before that, below a floor of free disk or above a limit of
 * what guests may write together, the machines that write are held here.
 */
import { BackOff } from "../../until-done.ts";
import type { LiveSession } from "../sessions/live-session.ts";
import type { SandboxContext } from "./context.ts";

/** Smaller growth between two looks is no writing that fills a disk. */
const growthBytes = 1 << 20;
/** What there must be above the floor before a machine goes on, so that it does not stop again at once. */
const marginBytes = { least: 16 << 20, most: 256 << 20 } as const;
/** Sizes of disks are looked at when so many times the floor is left. */
const nearFloors = 2;
/** A machine that stands still again after it went on is tried again after pauses that grow. */
const retry = { firstMs: 1_000, longestMs: 60_000 } as const;

/** The room for writes of guests on the host's disk, in bytes. */
export interface Room {
  readonly freeBytes: number;
  readonly floorBytes: number;
  /** What guests have written together. */
  readonly writtenBytes: number;
  readonly limitBytes: number | undefined;
}

/** Decides about a machine that writes, or waits. Pure. */
export function judgeWriter(
  { freeBytes, floorBytes, writtenBytes, limitBytes = Number.POSITIVE_INFINITY }: Room,
  { waits, grewBytes }: { readonly waits: boolean; readonly grewBytes: number },
): "wait" | "go_on" | "as_it_is" {
  const withinLimit = writtenBytes <= limitBytes;
  if (waits) {
    const margin = Math.min(Math.max(floorBytes / 4, marginBytes.least), marginBytes.most);
    return withinLimit && freeBytes >= floorBytes + margin ? "go_on" : "as_it_is";
  }
  return (freeBytes < floorBytes || !withinLimit) && grewBytes >= growthBytes ? "wait" : "as_it_is";
}

/** A session, as the disk waits know it. */
interface Watched {
  /** Whether clients are told that the sandbox waits. */
  isShown: boolean;
  /** Size of its machine's disk at the last look. */
  sizeBytes: number | undefined;
  readonly backOff: BackOff;
  /** Monotonic. */
  notBeforeMs: number;
  /** The machine is just being held, or let go on. */
  isBusy: boolean;
}

export class DiskWaits {
  readonly #context: SandboxContext;
  readonly #watched = new WeakMap<LiveSession, Watched>();

  constructor(context: SandboxContext) {
    this.#context = context;
  }

  /** Looks at the disk and at every machine. Machines are held, and go on, in the background. */
  async check(): Promise<void> {
    const { deps, registry } = this.#context;
    const sessions = [...registry.sessions()];
    if (sessions.length === 0) return;
    const { disk, guestDiskMiB, clock } = deps;
    // What nothing needs is removed from a full disk before anybody waits longer for it.
    if (sessions.some(({ waitsForDisk }) => waitsForDisk)) await disk.makeRoom("write");
    const { freeBytes, floorBytes } = await disk.look("write");
    const limitBytes = guestDiskMiB === undefined ? undefined : guestDiskMiB * 2 ** 20;
    const isNear = limitBytes !== undefined || freeBytes < floorBytes * nearFloors;
    // A machine that has just ended has no disk.
    const sizes = isNear ? await Promise.all(sessions.map(({ vm }) => vm.diskBytes().catch(() => 0))) : [];
    const writtenBytes = sizes.reduce((sum, size) => sum + size, 0);
    const room = { freeBytes, floorBytes, writtenBytes, limitBytes };
    for (const [at, session] of sessions.entries()) {
      const watched = this.#watchedOf(session);
      this.#show(session, watched);
      const sizeBytes = sizes[at];
      const grewBytes = (sizeBytes ?? 0) - (watched.sizeBytes ?? sizeBytes ?? 0);
      watched.sizeBytes = sizeBytes;
      const verdict = judgeWriter(room, { waits: session.waitsForDisk, grewBytes });
      if (watched.isBusy) continue;
      if (verdict === "wait") this.#act(session, watched, () => this.#hold(session, watched));
      if (verdict === "go_on" && clock.monotonicMs() >= watched.notBeforeMs) {
        watched.notBeforeMs = clock.monotonicMs() + watched.backOff.next();
        this.#act(session, watched, () => this.#letGoOn(session));
      }
    }
  }

  #watchedOf(session: LiveSession): Watched {
    const known = this.#watched.get(session);
    if (known) return known;
    const { firstMs, longestMs } = retry;
    const backOff = new BackOff(firstMs, longestMs);
    const watched = { isShown: false, sizeBytes: undefined, backOff, notBeforeMs: 0, isBusy: false };
    this.#watched.set(session, watched);
    return watched;
  }

  /** Tells clients and people when a sandbox begins to wait, and when it has gone on since the look before. */
  #show(session: LiveSession, watched: Watched): void {
    const { deps, registry } = this.#context;
    const { sandboxId, waitsForDisk, log } = session;
    const isCalm = !waitsForDisk && deps.clock.monotonicMs() >= watched.notBeforeMs + retry.longestMs;
    if (isCalm) watched.backOff.reset();
    if (watched.isShown === waitsForDisk) return;
    watched.isShown = waitsForDisk;
    registry.refresh(sandboxId);
    if (waitsForDisk) {
      const cause = session.vm.blockedBy ?? "too little is free";
      log.error({ cause }, "a sandbox waits for room on the host's disk");
      const message = `The sandbox stands still, because the host's disk takes no more (${cause}). It goes on when there is room.`;
      deps.logs.note(sandboxId, message, { level: "error", event: "disk_wait" });
    } else {
      log.info("a sandbox goes on, because there is room on the host's disk");
      deps.logs.note(sandboxId, "The sandbox goes on, because there is room on the host's disk", {
        event: "disk_wait_over",
      });
    }
  }

  async #hold(session: LiveSession, watched: Watched): Promise<void> {
    await session.vm.pause();
    session.isHeld = true;
    this.#show(session, watched);
  }

  async #letGoOn(session: LiveSession): Promise<void> {
    await session.vm.resume();
    session.isHeld = false;
  }

  /** Does something to a machine in its sandbox's turn, unless it is no longer the sandbox's. */
  #act(session: LiveSession, watched: Watched, act: () => Promise<void>): void {
    const { queue, registry } = this.#context;
    watched.isBusy = true;
    queue
      .runAlways(session.sandboxId, async () => {
        if (registry.session(session.sandboxId) === session) await act();
      })
      .catch((error) => session.log.warn({ err: error }, "a machine could not be held for room on the disk, or go on"))
      .finally(() => {
        watched.isBusy = false;
      });
  }
}
