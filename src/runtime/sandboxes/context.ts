/** What every operation on a sandbox works with: what the daemon opened, and the sandboxes that clients can see. */
import type { RuntimeDependencies } from "../dependencies.ts";
import type { Departures } from "./leave.ts";
import type { SandboxRegistry } from "./registry.ts";
import type { SerialQueue } from "./serial-queue.ts";
import type { Sessions } from "./sessions.ts";

export interface SandboxContext {
  readonly deps: RuntimeDependencies;
  readonly registry: SandboxRegistry;
  /** By sandbox. */
  readonly queue: SerialQueue;
  readonly sessions: Sessions;
  readonly departures: Departures;
}
