/**
 * Sandboxes, and the one place where their state changes. Every move is a compare-and-set, so that of two that race one
 * wins and the other learns it. {@link nextStates} holds the legal moves.
 *
 * A sandbox holds its reservation as long as a machine exists or may exist. What says that the machine is gone, which
 * is a move into `terminated`, a move into `paused` without one, or {@link forgetMachine}, releases the reservation in
 * the same transaction: no order of crashes can part the two.
 */
import { DomainError } from "../errors.ts";
import type { EndReason, MachineRecord, SandboxRecord, SandboxState } from "../types.ts";
import { release } from "./capacity.ts";
import { fromJson, machineFromJson, machineToJson, sandboxIngress, textMap } from "./json-columns.ts";
import type { Ledger } from "./open.ts";
import { refuseUnreadySnapshot } from "./snapshots.ts";

/** The states that may follow each state. */
export const nextStates = {
  creating: ["running", "terminated"],
  running: ["pausing", "terminating"],
  pausing: ["paused", "paused_in_memory", "running", "terminating"],
  paused: ["resuming", "terminating"],
  paused_in_memory: ["paused", "running", "terminating"],
  resuming: ["running", "paused", "terminated"],
  terminating: ["terminated"],
  terminated: [],
} as const satisfies Record<SandboxState, readonly SandboxState[]>;

/** The states of sandboxes that have not ended, which a starting daemon must look after. */
const liveStates: readonly SandboxState[] = (Object.keys(nextStates) as SandboxState[]).filter(
  (state) => state !== "terminated",
);

export type NewSandbox = Omit<SandboxRecord, "state" | "machine" | "endReason">;

/** Columns that may change together with the state. A column that is absent stays. */
export interface SandboxChanges {
  readonly machine?: MachineRecord | null;
  readonly endAtMs?: number;
  /** Needed by moves to `terminating`, and by moves to `terminated` from another state. A known reason stays. */
  readonly endReason?: EndReason;
  /** The snapshot from which the sandbox will be restored next. */
  readonly snapshotId?: string;
  /** A reservation that is held for this sandbox. Needed by the move to `resuming`. */
  readonly reservationId?: string;
  readonly envs?: Readonly<Record<string, string>>;
}

interface SandboxRow {
  readonly id: string;
  readonly template_id: string;
  readonly template_alias: string | null;
  readonly snapshot_id: string;
  readonly state: SandboxState;
  readonly metadata: string;
  readonly envs: string;
  readonly default_user: string;
  readonly workdir: string;
  readonly vcpu_count: number;
  readonly memory_mib: number;
  readonly disk_mib: number;
  readonly allow_internet_access: number;
  readonly ingress: string;
  readonly on_timeout: "kill" | "pause";
  readonly keep_memory: number;
  readonly auto_resume: number;
  readonly timeout_ms: number;
  readonly started_at_ms: number;
  readonly end_at_ms: number;
  readonly machine: string | null;
  readonly reservation_id: string;
  readonly end_reason: EndReason | null;
}

/** The named parameters of a statement that inserts a sandbox: its columns, in the form in which the ledger keeps them. */
export function sandboxParameters(sandbox: NewSandbox, machine: MachineRecord | null) {
  const { metadata, envs, defaults, shape, allowInternetAccess, ingress, lifecycle, ...columns } = sandbox;
  return {
    ...columns,
    ...defaults,
    ...shape,
    metadata: JSON.stringify(metadata),
    envs: JSON.stringify(envs),
    allowInternetAccess: allowInternetAccess ? 1 : 0,
    ingress: JSON.stringify(ingress),
    onTimeout: lifecycle.onTimeout,
    keepMemory: lifecycle.keepMemory ? 1 : 0,
    autoResume: lifecycle.autoResume ? 1 : 0,
    timeoutMs: lifecycle.timeoutMs,
    machine: machineToJson(machine),
  };
}

/**
 * Adds a sandbox in state `creating`. Call it in one `ledger.write` with `reserve` (or the checkout of a warm entry).
 * @param machine the machine that runs it, if there is one already
 * @throws failed_precondition when the snapshot was quarantined or deleted meanwhile; invalid_state when its
 *   reservation is not held for it; nothing is added
 */
export function insertSandbox(
  ledger: Ledger,
  sandbox: NewSandbox,
  machine: MachineRecord | null = null,
): SandboxRecord {
  ledger.write(() => {
    const { changes } = ledger
      .statement(
        `insert into sandboxes (id, template_id, template_alias, snapshot_id, state, metadata, envs,
           default_user, workdir, vcpu_count, memory_mib, disk_mib, allow_internet_access, ingress, on_timeout,
           keep_memory, auto_resume, timeout_ms, started_at_ms, end_at_ms, machine, reservation_id)
         select :id, :templateId, :templateAlias, :snapshotId, 'creating', :metadata, :envs,
           :user, :workdir, :vcpuCount, :memoryMiB, :diskMiB, :allowInternetAccess, :ingress, :onTimeout,
           :keepMemory, :autoResume, :timeoutMs, :startedAtMs, :endAtMs, :machine, id
         from reservations where id = :reservationId and sandbox_id = :id and state = 'held'
         and exists (select 1 from snapshots where id = :snapshotId and state = 'ready')`,
      )
      .run(sandboxParameters(sandbox, machine));
    if (changes === 1) return;
    refuseUnreadySnapshot(ledger, sandbox.snapshotId);
    throw reservationNotHeld(sandbox.id, sandbox.reservationId);
  });
  return { ...sandbox, state: "creating", machine, endReason: null };
}

/**
 * Moves a sandbox from one state to another, with the columns that change with it. A move to `paused` survives power
 * loss, so a transaction around it must be `ledger.writeDurably`.
 * @throws not_found; invalid_state when the sandbox is in another state than `from`, or would live without a
 *   reservation held for it; internal when the move is not legal; the sandbox stays as it was
 */
export function moveSandbox(
  ledger: Ledger,
  id: string,
  from: SandboxState,
  to: SandboxState,
  changes: SandboxChanges = {},
): SandboxRecord {
  const legal: readonly SandboxState[] = nextStates[from];
  if (!legal.includes(to)) throw new DomainError("internal", `A sandbox never goes from ${from} to ${to}`, { id });
  const move = () => {
    const before = mustGet(ledger, id);
    if (before.state !== from) throw wrongState(before, from);
    const after = { ...before, ...changes, state: to };
    updateSandbox(ledger, after, from);
    if (to === "terminated" || (to === "paused" && !after.machine)) release(ledger, after.reservationId);
    return after;
  };
  return to === "paused" ? ledger.writeDurably(move) : ledger.write(move);
}

/**
 * Writes down that the machine from which a sandbox was paused has ended, and releases the reservation.
 * @returns undefined, and changes nothing, when the sandbox has left meanwhile
 */
export function forgetMachine(ledger: Ledger, id: string, sessionId: string): SandboxRecord | undefined {
  return ledger.write(() => {
    const sandbox = getSandbox(ledger, id);
    if (sandbox?.state !== "paused" || sandbox.machine?.sessionId !== sessionId) return undefined;
    const after = { ...sandbox, machine: null };
    updateSandbox(ledger, after, "paused");
    release(ledger, after.reservationId);
    return after;
  });
}

/** Ends a sandbox in state `terminating` now, when its machine is gone, and releases its reservation. Idempotent. */
export function endSandbox(ledger: Ledger, id: string): SandboxRecord {
  return ledger.write(() => {
    const sandbox = mustGet(ledger, id);
    if (sandbox.state === "terminated") return sandbox;
    return moveSandbox(ledger, id, "terminating", "terminated", { endAtMs: ledger.nowMs() });
  });
}

/**
 * Writes down the machine of a sandbox that is not running yet, so that a later daemon finds it after a crash.
 * @throws not_found; invalid_state
 */
export function setSandboxMachine(ledger: Ledger, id: string, machine: MachineRecord): SandboxRecord {
  return ledger.write(() => {
    const sandbox = mustGet(ledger, id);
    if (sandbox.state !== "creating" && sandbox.state !== "resuming") throw wrongState(sandbox, "creating or resuming");
    const after = { ...sandbox, machine };
    updateSandbox(ledger, after, sandbox.state);
    return after;
  });
}

/**
 * Sets when the time of a running sandbox is up. The caller decides whether it may only become later.
 * @throws not_found; invalid_state when the sandbox is not running
 */
export function setSandboxEnd(ledger: Ledger, id: string, endAtMs: number): SandboxRecord {
  return ledger.write(() => {
    const sandbox = mustGet(ledger, id);
    if (sandbox.state !== "running") throw wrongState(sandbox, "running");
    const after = { ...sandbox, endAtMs };
    updateSandbox(ledger, after, "running");
    return after;
  });
}

/**
 * Sets whether a running sandbox reaches the internet, now and after every later restore.
 * @throws not_found; invalid_state when the sandbox is not running
 */
export function setSandboxInternetAccess(ledger: Ledger, id: string, allowInternetAccess: boolean): SandboxRecord {
  return ledger.write(() => {
    const sandbox = mustGet(ledger, id);
    if (sandbox.state !== "running") throw wrongState(sandbox, "running");
    const after = { ...sandbox, allowInternetAccess };
    updateSandbox(ledger, after, "running");
    return after;
  });
}

export function getSandbox(ledger: Ledger, id: string): SandboxRecord | undefined {
  const row = ledger.statement<SandboxRow>("select * from sandboxes where id = :id").get({ id });
  return row && toSandbox(row);
}

/** The sandbox that runs, or ran, on a machine. */
export function findSandboxBySession(ledger: Ledger, sessionId: string): SandboxRecord | undefined {
  const row = ledger
    .statement<SandboxRow>("select * from sandboxes where machine_session_id = :sessionId")
    .get({ sessionId });
  return row && toSandbox(row);
}

/** The sandboxes in one of `states`, by start time, then id. */
export function listSandboxes(ledger: Ledger, states: readonly SandboxState[] = liveStates): SandboxRecord[] {
  return ledger
    .statement<SandboxRow>(
      `select * from sandboxes where state in (select value from json_each(:states)) order by started_at_ms, id`,
    )
    .all({ states: JSON.stringify(states) })
    .map(toSandbox);
}

/**
 * Writes the columns that can change. The guard repeats the caller's reading, because the row decides, not the reading.
 */
function updateSandbox(ledger: Ledger, sandbox: SandboxRecord, from: SandboxState): void {
  const { id, state, endAtMs, endReason, snapshotId, reservationId, machine } = sandbox;
  const allowInternetAccess = sandbox.allowInternetAccess ? 1 : 0;
  const { changes } = ledger
    .statement(
      `update sandboxes set state = :state, end_at_ms = :endAtMs, end_reason = :endReason, machine = :machine,
              snapshot_id = :snapshotId, reservation_id = :reservationId, allow_internet_access = :allowInternetAccess,
              envs = :envs
       where id = :id and state = :from
       and (:state = 'resuming' or reservation_id = :reservationId)
       and (
         :state in ('paused', 'terminating', 'terminated')
         or exists (select 1 from reservations where id = :reservationId and sandbox_id = :id and state = 'held'))`,
    )
    .run({
      id,
      state,
      endAtMs,
      endReason,
      snapshotId,
      reservationId,
      allowInternetAccess,
      from,
      machine: machineToJson(machine),
      envs: JSON.stringify(sandbox.envs),
    });
  if (changes !== 1) throw reservationNotHeld(id, reservationId);
}

function toSandbox(row: SandboxRow): SandboxRecord {
  return {
    id: row.id,
    templateId: row.template_id,
    templateAlias: row.template_alias,
    snapshotId: row.snapshot_id,
    state: row.state,
    metadata: fromJson(textMap, row.metadata, `sandboxes.metadata of ${row.id}`),
    envs: fromJson(textMap, row.envs, `sandboxes.envs of ${row.id}`),
    defaults: { user: row.default_user, workdir: row.workdir },
    shape: { vcpuCount: row.vcpu_count, memoryMiB: row.memory_mib, diskMiB: row.disk_mib },
    allowInternetAccess: row.allow_internet_access === 1,
    ingress: fromJson(sandboxIngress, row.ingress, `sandboxes.ingress of ${row.id}`),
    lifecycle: {
      onTimeout: row.on_timeout,
      keepMemory: row.keep_memory === 1,
      autoResume: row.auto_resume === 1,
      timeoutMs: row.timeout_ms,
    },
    startedAtMs: row.started_at_ms,
    endAtMs: row.end_at_ms,
    machine: machineFromJson(row.machine, `sandboxes.machine of ${row.id}`),
    reservationId: row.reservation_id,
    endReason: row.end_reason,
  };
}

function mustGet(ledger: Ledger, id: string): SandboxRecord {
  const sandbox = getSandbox(ledger, id);
  if (!sandbox) throw new DomainError("not_found", `There is no sandbox ${id}`, { id });
  return sandbox;
}

function wrongState({ id, state }: SandboxRecord, wanted: string): DomainError {
  return new DomainError("invalid_state", `Sandbox ${id} is not ${wanted}, it is ${state}`, { id, state });
}

function reservationNotHeld(id: string, reservationId: string): DomainError {
  const message = `Reservation ${reservationId} is not held for sandbox ${id}`;
  return new DomainError("invalid_state", message, { id, reservationId });
}
