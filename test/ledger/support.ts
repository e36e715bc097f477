/** Support for the ledger's tests: files that are removed afterwards, a clock moved by hand, and rows to begin with. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { onTestFinished } from "vitest";
import type { Clock } from "../../src/clock.ts";
import { isDomainError } from "../../src/errors.ts";
import { type CapacityBudgets, reserve } from "../../src/ledger/capacity.ts";
import { type Ledger, openLedger } from "../../src/ledger/open.ts";
import { insertSandbox } from "../../src/ledger/sandboxes.ts";
import { markSnapshotReady, registerSnapshot, type SnapshotFacts } from "../../src/ledger/snapshots.ts";
import type { MachineRecord, MachineShape, SandboxRecord } from "../../src/types.ts";
import { openIngress } from "../support/daemon/ingress.ts";

export const shape: MachineShape = { vcpuCount: 2, memoryMiB: 512, diskMiB: 1024 };

export const roomy: CapacityBudgets = { vcpuCount: 1_000, memoryMiB: 1_000_000, diskMiB: 10_000_000, sandboxes: 500 };

export const facts: SnapshotFacts = {
  engine: "qemu",
  engineVersion: "1",
  acceleration: "none",
  cpuModel: "none",
  memoryBytes: 3,
  devicesBytes: 2,
  diskBytes: 1,
  manifestSha256: "00",
};

/** A folder that is removed after the test. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "firkin-ledger-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export function temporaryPath(): string {
  return join(temporaryFolder(), "ledger.db");
}

/** Starts at 1,000 ms and moves only when told. */
export function manualClock(): Clock & { advance(ms: number): void } {
  let nowMs = 1_000;
  return {
    nowMs: () => nowMs,
    monotonicMs: () => nowMs,
    sleep: async () => {},
    advance: (ms) => {
      nowMs += ms;
    },
  };
}

/** A ledger without a file that is closed after the test. */
export function memoryLedger(clock: Clock = manualClock()): Ledger {
  const ledger = openLedger(":memory:", { clock });
  onTestFinished(() => ledger.close());
  return ledger;
}

export function addReadySnapshot(ledger: Ledger, id = "snap"): void {
  registerSnapshot(ledger, { id, kind: "template", logicalId: "base", folder: `/snapshots/${id}`, reason: null });
  markSnapshotReady(ledger, id, facts);
}

/** Admits a sandbox restored from `snapshotId`, in state `creating`. */
export function addSandbox(ledger: Ledger, id: string, snapshotId = "snap", templateId = "base"): SandboxRecord {
  return ledger.write(() => {
    const { id: reservationId } = reserve(ledger, { kind: "active", shape, budgets: roomy, sandboxId: id });
    return insertSandbox(ledger, {
      id,
      templateId,
      templateAlias: "base",
      snapshotId,
      metadata: { job: "a" },
      envs: { A: "1" },
      defaults: { user: "user", workdir: "" },
      shape,
      allowInternetAccess: true,
      ingress: openIngress,
      lifecycle: { onTimeout: "kill", keepMemory: true, autoResume: false, timeoutMs: 60_000 },
      startedAtMs: ledger.nowMs(),
      endAtMs: ledger.nowMs() + 60_000,
      reservationId,
    });
  });
}

export function machineOf(sessionId: string): MachineRecord {
  return {
    engine: "qemu",
    sessionId,
    folder: `/machines/${sessionId}`,
    processes: [{ role: "vm", pid: 42, startTime: "1234", executable: "/usr/bin/vm" }],
  };
}

/** The error code and message that `action` fails with, for one assertion on both. */
export function failureOf(action: () => unknown): { code: string; message: string } {
  try {
    action();
  } catch (error) {
    if (isDomainError(error)) return { code: error.code, message: error.message };
    throw error;
  }
  throw new Error("it did not fail");
}
