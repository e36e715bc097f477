/**
 * The runtime: the parts that make, change and end sandboxes, put together over what the daemon opened. Every change of
 * a sandbox goes through its serial queue: the ledger first, then the machine.
 */
import { summarizeSamples } from "../ledger/samples.ts";
import { findTemplate } from "../ledger/templates.ts";
import type { EngineInfo } from "../machine/driver.ts";
import { updateGauges, viewCapacity } from "./capacity-view.ts";
import type { BenchmarkSummary, CapacityView } from "./contract.ts";
import type { RuntimeDependencies } from "./dependencies.ts";
import { MetricsSampler } from "./records/metrics-sampler.ts";
import { SandboxCopies } from "./records/sandbox-copies.ts";
import { TeamMetrics } from "./records/team-metrics.ts";
import { tryFlush } from "./records/try-flush.ts";
import type { SandboxContext } from "./sandboxes/context.ts";
import { SandboxCreation } from "./sandboxes/create.ts";
import { SandboxDeadlines } from "./sandboxes/deadlines.ts";
import { DiskWaits } from "./sandboxes/disk-waits.ts";
import { SandboxEnds } from "./sandboxes/end.ts";
import { SandboxForks } from "./sandboxes/fork.ts";
import { IdempotentCreates } from "./sandboxes/idempotent-creates.ts";
import { InternetAccess } from "./sandboxes/internet-access.ts";
import { Departures } from "./sandboxes/leave.ts";
import { SandboxObservations } from "./sandboxes/observations.ts";
import { SandboxPauses } from "./sandboxes/pause.ts";
import { PausedInMemory } from "./sandboxes/paused-in-memory.ts";
import { type SandboxDirectory, SandboxRegistry } from "./sandboxes/registry.ts";
import { SandboxResumes } from "./sandboxes/resume.ts";
import { SavedPauses } from "./sandboxes/saved-pauses.ts";
import { SerialQueue } from "./sandboxes/serial-queue.ts";
import { Sessions } from "./sandboxes/sessions.ts";
import { SilentSandboxes } from "./sandboxes/silent-sandboxes.ts";
import { SandboxSnapshots } from "./sandboxes/snapshots.ts";
import { GuestClocks } from "./sessions/guest-clocks.ts";
import { Heartbeats } from "./sessions/heartbeats.ts";
import { NetworkWatch } from "./sessions/network-watch.ts";

/** The parts that routes use. A route takes those that it needs. */
export interface Runtime {
  readonly engine: EngineInfo;
  readonly registry: SandboxDirectory;
  readonly creates: Pick<IdempotentCreates, "create">;
  readonly pauses: Pick<SandboxPauses, "pause">;
  readonly resumes: Pick<SandboxResumes, "connect" | "resume">;
  readonly traffic: Pick<SandboxResumes, "resumeForTraffic" | "resumableByTraffic">;
  readonly ends: Pick<SandboxEnds, "kill" | "stop">;
  readonly deadlines: Pick<SandboxDeadlines, "set" | "refresh">;
  readonly internetAccess: Pick<InternetAccess, "set">;
  readonly forks: Pick<SandboxForks, "fork" | "followUp">;
  readonly snapshots: Pick<SandboxSnapshots, "take" | "list" | "has" | "remove">;
  readonly observations: Pick<SandboxObservations, "metrics" | "logs" | "latency">;
  readonly team: Pick<TeamMetrics, "samples">;
  /** The template a name or id stands for; undefined when there is none. */
  findTemplate(name: string): { readonly id: string; readonly aliases: readonly string[] } | undefined;
  benchmarks(): BenchmarkSummary[];
  capacity(): CapacityView;
  /** How many running sandboxes stand still until the host's disk has room. Asks nothing but memory. */
  waitingForDisk(): number;
}

/** The runtime as the daemon drives it: with the parts that loops, a restart and a stop need. */
export interface DrivenRuntime extends Runtime {
  readonly registry: SandboxRegistry;
  readonly queue: SerialQueue;
  readonly sessions: Sessions;
  readonly departures: Departures;
  readonly savedPauses: SavedPauses;
  readonly inMemory: PausedInMemory;
  readonly deadlines: SandboxDeadlines;
  readonly diskWaits: DiskWaits;
  /**
   * Sends heartbeats, gives up machines that have been silent for too long, keeps the guests' clocks right, and looks
   * at the machines' networks.
   */
  checkHeartbeats(): void;
  /** Takes one metrics sample of all sandboxes together and of every live session. */
  sampleMetrics(): Promise<void>;
  updateGauges(): void;
  /** Resolves when nothing is under way for any sandbox. */
  idle(): Promise<void>;
  /** Refuses new work, waits for work under way and lets go of every machine without ending it. */
  close(): Promise<void>;
}

export function composeRuntime(deps: RuntimeDependencies): DrivenRuntime {
  const { ledger, clock, samples, logs, log } = deps;
  const copies = new SandboxCopies(ledger, log);
  const registry = new SandboxRegistry(ledger, (view) => copies.keep(view));
  const queue = new SerialQueue();
  const team = new TeamMetrics(clock);
  const sessions = new Sessions(deps, registry, team);
  const departures = new Departures(deps, registry);
  const savedPauses = new SavedPauses(deps, registry);
  const context: SandboxContext = { deps, registry, queue, sessions, departures, savedPauses };
  const creation = new SandboxCreation(context);
  const inMemory = new PausedInMemory(context);
  const pauses = new SandboxPauses(context, inMemory);
  const ends = new SandboxEnds(context, { inMemory, stalled: pauses.stalled });
  const deadlines = new SandboxDeadlines(context, { pauses, ends });
  const silent = new SilentSandboxes(context, pauses);
  const heartbeats = new Heartbeats(clock, deps.stuckAfterMs, ({ sandboxId, sessionId }, silentMs) =>
    silent.giveUp({ sandboxId, sessionId, detail: `no heartbeat for ${Math.round(silentMs)} ms` }),
  );
  const guestClocks = new GuestClocks(clock);
  const networks = new NetworkWatch(logs);
  const sampler = new MetricsSampler(clock, (session) => heartbeats.heard(session));
  const resumes = new SandboxResumes(context, { inMemory, deadlines });
  const capacity = () => viewCapacity({ ...deps, waitingForDisk: registry.waitingForDisk });
  return {
    engine: { ...deps.driver.info, ...(deps.chosenBecause ? { chosenBecause: deps.chosenBecause } : {}) },
    registry,
    queue,
    sessions,
    departures,
    savedPauses,
    inMemory,
    creates: new IdempotentCreates(context, creation),
    pauses,
    resumes,
    traffic: resumes,
    ends,
    deadlines,
    diskWaits: new DiskWaits(context),
    internetAccess: new InternetAccess(context),
    forks: new SandboxForks(context, { creation, inMemory }),
    snapshots: new SandboxSnapshots(context),
    observations: new SandboxObservations(context, sampler),
    team,
    findTemplate: (name) => findTemplate(ledger, name),
    benchmarks: () => {
      tryFlush(samples, log);
      return summarizeSamples(ledger);
    },
    capacity,
    waitingForDisk: () => registry.waitingForDisk,
    checkHeartbeats: () => {
      heartbeats.check(registry.sessions());
      guestClocks.check(registry.sessions());
      networks.check(registry.sessions());
    },
    sampleMetrics: () => {
      team.sample(registry.count("running"));
      return sampler.sampleAll(registry.sessions(), (id) => registry.view(id) !== undefined);
    },
    updateGauges: () => updateGauges(capacity(), { ...deps, count: (state) => registry.count(state) }),
    idle: () => queue.idle(),
    close: async () => {
      queue.close();
      deps.unfinishedWork.stopRetrying();
      deps.admission.close();
      ends.close();
      await queue.idle();
      deps.warmPool.close();
      await deps.unfinishedWork.close();
      await sessions.release();
      await inMemory.release();
      await pauses.stalled.release();
      tryFlush(samples, log);
      tryFlush(logs, log);
    },
  };
}
