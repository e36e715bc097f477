import { expect, test } from "vitest";
import { followStateFolder } from "../../src/ledger/relocate.ts";
import { getSandbox, moveSandbox } from "../../src/ledger/sandboxes.ts";
import { deleteSnapshot, getSnapshot } from "../../src/ledger/snapshots.ts";
import { addReadySnapshot, addSandbox, machineOf, memoryLedger } from "./support.ts";

test("folders of snapshots and machines follow the state folder, and stay when it did not move", () => {
  const ledger = memoryLedger();
  addReadySnapshot(ledger);
  addReadySnapshot(ledger, "gone");
  deleteSnapshot(ledger, "gone");
  addSandbox(ledger, "i1");
  addSandbox(ledger, "i2");
  moveSandbox(ledger, "i1", "creating", "running", { machine: machineOf("s1") });
  followStateFolder(ledger, { snapshotsFolder: "/snapshots", machinesFolder: "/machines" });
  expect(getSandbox(ledger, "i1")?.machine).toEqual(machineOf("s1"));
  for (let time = 0; time < 2; time += 1) {
    followStateFolder(ledger, { snapshotsFolder: "/new/snapshots", machinesFolder: "/new/machines" });
    expect(getSnapshot(ledger, "snap")?.folder).toBe("/new/snapshots/snap");
    expect(getSnapshot(ledger, "gone")?.folder).toBe("/snapshots/gone");
    expect(getSandbox(ledger, "i1")?.machine).toEqual({ ...machineOf("s1"), folder: "/new/machines/s1" });
    expect(getSandbox(ledger, "i2")?.machine).toBeNull();
  }
});
