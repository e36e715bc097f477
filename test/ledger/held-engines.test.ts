import { expect, test } from "vitest";
import { listHeldEngines } from "../../src/ledger/held-engines.ts";
import { moveSandbox } from "../../src/ledger/sandboxes.ts";
import { markSnapshotReady, registerSnapshot } from "../../src/ledger/snapshots.ts";
import { insertTemplate, publishBuild } from "../../src/ledger/templates.ts";
import { addReadySnapshot, addSandbox, facts, memoryLedger, shape } from "./support.ts";

function ledgerWithBase() {
  const ledger = memoryLedger();
  insertTemplate(ledger, { id: "t1", aliases: ["base"], public: true, shape });
  addReadySnapshot(ledger, "s1");
  publishBuild(ledger, { id: "b1", templateId: "t1", snapshotId: "s1", shape, tags: ["default"] });
  return ledger;
}

test("a template that the daemon makes anew binds a state folder to no engine", () => {
  const ledger = ledgerWithBase();
  expect(listHeldEngines(ledger, ["base"])).toEqual([]);
  expect(listHeldEngines(ledger, [])).toEqual(["qemu"]);
});

test("a sandbox binds a state folder to the engine of its snapshot until it has ended", () => {
  const ledger = ledgerWithBase();
  addSandbox(ledger, "a", "s1", "t1");
  expect(listHeldEngines(ledger, ["base"])).toEqual(["qemu"]);
  moveSandbox(ledger, "a", "creating", "terminated", { endReason: "create_failed" });
  expect(listHeldEngines(ledger, ["base"])).toEqual([]);
});

test("a template of a person binds a state folder, and one that is being made does not", () => {
  const ledger = ledgerWithBase();
  insertTemplate(ledger, { id: "t2", aliases: ["mine"], public: false, shape });
  const snapshot = { id: "s2", kind: "template", logicalId: "t2", folder: "/snapshots/s2", reason: null } as const;
  registerSnapshot(ledger, snapshot);
  expect(listHeldEngines(ledger, ["base"])).toEqual([]);
  markSnapshotReady(ledger, "s2", { ...facts, engine: "gvisor" });
  publishBuild(ledger, { id: "b2", templateId: "t2", snapshotId: "s2", shape, tags: ["default"] });
  expect(listHeldEngines(ledger, ["base"])).toEqual(["gvisor"]);
});
