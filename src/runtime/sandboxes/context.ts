/**
 * The sandbox context is what every operation on a sandbox works with: the runtime's dependencies, and the sandboxes
 * that clients can see. This room holds those operations, from a sandbox's creation to its leaving, and the registry of
 * sandboxes; it may call machines, pool, records and sessions.
 */
import type { RuntimeDependencies } from "../dependencies.ts";
import type { Departures } from "./leave.ts";
import type { SandboxRegistry } from "./registry.ts";
import type { SavedPauses } from "./saved-pauses.ts";
import type { SerialQueue } from "./serial-queue.ts";
import type { Sessions } from "./sessions.ts";

export interface SandboxContext {
  readonly deps: RuntimeDependencies;
  readonly registry: SandboxRegistry;
  /** By sandbox. */
  readonly queue: SerialQueue;
  readonly sessions: Sessions;
  readonly departures: Departures;
  readonly savedPauses: SavedPauses;
}
