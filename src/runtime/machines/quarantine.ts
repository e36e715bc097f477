/**
 * The quarantine: files that reconciliation could not name (moved into a folder of their own), running machines without
 * an owner, and damaged snapshots. Nothing in it is ever used; it waits for a person to look at it.
 */
import { randomUUID } from "node:crypto";
import { mkdir, readdir, rename, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { DomainError, isDomainError } from "../../errors.ts";
import type { Ledger } from "../../ledger/open.ts";
import {
  deleteQuarantineEntry,
  insertQuarantineEntry,
  listQuarantineEntries,
  type QuarantineEntry,
} from "../../ledger/quarantine.ts";
import { deleteSnapshot, getSnapshot, listSnapshots, type SnapshotRecord } from "../../ledger/snapshots.ts";
import type { Logger } from "../../log.ts";
import type { VmDriver } from "../../machine/driver.ts";
import { removeSnapshot } from "../../machine/snapshot-files.ts";
import type { Metrics } from "../../metrics.ts";
import type { MachineRecord } from "../../types.ts";

export interface QuarantineDependencies {
  readonly ledger: Ledger;
  readonly driver: VmDriver;
  readonly log: Logger;
  readonly metrics: Pick<Metrics, "quarantined">;
  /** `quarantine` in the state folder. */
  readonly folder: string;
}

/** An entry as clients see it. */
export interface QuarantineView {
  readonly id: string;
  readonly kind: QuarantineEntry["kind"] | "snapshot";
  readonly name: string;
  readonly reason: string;
  readonly atMs: number;
}

/** A file that does not fit stays where it is, and the next daemon looks at it again. */
const maxEntries = 1_000;
const maxNameLength = 255;

export class Quarantine {
  readonly #deps: QuarantineDependencies;

  constructor(deps: QuarantineDependencies) {
    this.#deps = deps;
  }

  /** Oldest first. */
  list(): QuarantineView[] {
    const { ledger } = this.#deps;
    const found = listQuarantineEntries(ledger).map(({ machine: _, ...view }) => view);
    const damaged = listSnapshots(ledger, ["quarantined"]).map((snapshot) => viewOfSnapshot(snapshot));
    return [...found, ...damaged].sort((one, other) => one.atMs - other.atMs);
  }

  /**
   * Removes an entry for good: its files are removed, its machine is ended.
   * @throws DomainError `not_found`; `invalid_state` for a damaged snapshot that a sandbox or a template still names
   */
  async remove(id: string): Promise<void> {
    const { ledger, driver, folder, log } = this.#deps;
    const entry = listQuarantineEntries(ledger).find((each) => each.id === id);
    if (!entry) return this.#removeSnapshot(id);
    if (entry.machine) await driver.discard(entry.machine);
    else await rm(join(folder, entry.id), { recursive: true, force: true });
    deleteQuarantineEntry(ledger, id);
    log.info({ quarantineID: id, kind: entry.kind, name: entry.name }, "an entry was removed from the quarantine");
  }

  /**
   * Makes the folder, and makes list and folder agree: a person may have removed files by hand, and a daemon may have
   * died between the two steps.
   */
  async open(): Promise<void> {
    const { ledger, folder } = this.#deps;
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const there = new Set(await readdir(folder));
    for (const { id, kind } of listQuarantineEntries(ledger)) {
      if (kind !== "machine" && !there.delete(id)) deleteQuarantineEntry(ledger, id);
    }
    for (const id of there) {
      const reason = "an earlier daemon put it in quarantine and died before it wrote down why";
      insertQuarantineEntry(ledger, { id, kind: "folder", name: printableName(id), reason, machine: null });
    }
  }

  /**
   * Moves a file or folder that cannot be named into the quarantine.
   * @returns false when the quarantine is full; the file stays where it is then
   */
  async setAside(path: string, kind: "file" | "folder", reason: string): Promise<boolean> {
    const { ledger, folder, log } = this.#deps;
    if (this.#isFull()) return false;
    const id = randomUUID();
    await rename(path, join(folder, id));
    insertQuarantineEntry(ledger, { id, kind, name: printableName(basename(path)), reason, machine: null });
    log.warn({ quarantineID: id, path, reason }, "a file that cannot be named was put in quarantine");
    return true;
  }

  /** Lists exactly `strays`, the running machines without an owner. They are left alone. @returns how many are new */
  noteMachines(strays: readonly MachineRecord[]): number {
    const { ledger, log } = this.#deps;
    const listed = listQuarantineEntries(ledger).filter(({ kind }) => kind === "machine");
    const running = new Set(strays.map(({ sessionId }) => sessionId));
    for (const { id, machine } of listed) {
      if (!machine || !running.has(machine.sessionId)) deleteQuarantineEntry(ledger, id);
    }
    const known = new Set(listed.map(({ machine }) => machine?.sessionId));
    const fresh = strays.filter(({ sessionId }) => !known.has(sessionId) && !this.#isFull());
    for (const machine of fresh) {
      const { sessionId, processes } = machine;
      const reason = `process ${processes.map(({ pid }) => pid).join(", ")} runs a machine without an owner`;
      const name = printableName(sessionId);
      insertQuarantineEntry(ledger, { id: randomUUID(), kind: "machine", name, reason, machine });
      log.warn({ sessionID: sessionId, reason }, "a machine without an owner is left alone");
    }
    return fresh.length;
  }

  updateGauge(): void {
    const entries = this.list();
    const count = (kind: string) => entries.filter((entry) => entry.kind === kind).length;
    for (const kind of ["file", "folder", "machine", "snapshot"])
      this.#deps.metrics.quarantined.set({ kind }, count(kind));
  }

  #isFull(): boolean {
    const isFull = listQuarantineEntries(this.#deps.ledger).length >= maxEntries;
    if (isFull) this.#deps.log.error({ maxEntries }, "the quarantine is full: empty it with DELETE /quarantine/{id}");
    return isFull;
  }

  async #removeSnapshot(id: string): Promise<void> {
    const { ledger, log } = this.#deps;
    const snapshot = getSnapshot(ledger, id);
    if (snapshot?.state !== "quarantined")
      throw new DomainError("not_found", `There is no ${id} in quarantine`, { id });
    try {
      deleteSnapshot(ledger, id);
    } catch (error) {
      if (!isDomainError(error, "failed_precondition")) throw error;
      const message = `${viewOfSnapshot(snapshot).name} still stands on snapshot ${id}: remove or rebuild that first`;
      throw new DomainError("invalid_state", message, { id }, { cause: error });
    }
    await removeSnapshot(snapshot.folder);
    log.info({ snapshotID: id }, "a damaged snapshot was removed");
  }
}

function viewOfSnapshot({ id, kind, logicalId, quarantineReason, quarantinedAtMs }: SnapshotRecord): QuarantineView {
  const name = `${kind === "template" ? "template" : "sandbox"} ${logicalId}`;
  return { id, kind: "snapshot", name, reason: quarantineReason ?? "", atMs: quarantinedAtMs ?? 0 };
}

/** A name for the list: any process may have made the file, so the name may have any characters. */
function printableName(name: string): string {
  return name.replace(/[^\x20-\x7e]+/g, "?").slice(0, maxNameLength);
}
