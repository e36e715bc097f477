/**
 * What the daemon opens before the runtime, and every part of the runtime stands on. Parts that need less pick from it.
 */
import type { Clock } from "../clock.ts";
import type { CapacityBudgets } from "../ledger/capacity.ts";
import type { Ledger } from "../ledger/open.ts";
import type { ReachStep } from "../lifecycle-steps.ts";
import type { Logger } from "../log.ts";
import type { VmDriver } from "../machine/driver.ts";
import type { Metrics } from "../metrics.ts";
import type { GuestAssets } from "../template/assets/guest-assets.ts";
import type { GuestTrust } from "../template/trust/host-trust.ts";
import type { Admission } from "./capacity/admission.ts";
import type { DiskPressureGuard } from "./capacity/disk-guard.ts";
import type { LifecycleSamples } from "./lifecycle-samples.ts";
import type { Quarantine } from "./machines/quarantine.ts";
import type { UnfinishedWork } from "./machines/unfinished-work.ts";
import type { SnapshotShelf } from "./pool/snapshot-shelf.ts";
import type { WarmPool } from "./pool/warm-pool.ts";
import type { SandboxLogs } from "./records/sandbox-logs.ts";

export interface RuntimeDependencies {
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly reach: ReachStep;
  readonly ledger: Ledger;
  readonly driver: VmDriver;
  /** Why the daemon runs this engine. */
  readonly chosenBecause?: string;
  /** What is booted when there is no memory to restore. */
  readonly assets: GuestAssets;
  /** What such guests trust of the network around the host. */
  readonly trust: GuestTrust;
  /** The folder of all snapshots, in the state folder. */
  readonly snapshotsFolder: string;
  readonly quarantine: Quarantine;
  readonly unfinishedWork: UnfinishedWork;
  readonly budgets: CapacityBudgets;
  readonly disk: DiskPressureGuard;
  /** The limit of what running guests may write together; undefined: none. */
  readonly guestDiskMiB: number | undefined;
  readonly admission: Admission;
  readonly warmPool: WarmPool;
  readonly shelf: SnapshotShelf;
  readonly samples: LifecycleSamples;
  readonly logs: SandboxLogs;
  /** How long a machine may leave heartbeats unanswered. */
  readonly stuckAfterMs: number;
  /** The templates that are made when they are wanted. */
  readonly wantedTemplates: {
    /** @throws DomainError `not_ready` when the name means a template that is being made */
    readonly refuseUnmade: (name: string) => void;
  };
  readonly newSandboxId: () => string;
  readonly newTemplateId: () => string;
  readonly newAccessToken: () => string;
}
