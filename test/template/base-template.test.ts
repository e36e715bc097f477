/** The base template over the fake engine: made once, for what it is made from, and within the budgets. */
import { expect, test, vi } from "vitest";
import { DomainError } from "../../src/errors.ts";
import { type CapacityBudgets, reserve, usage } from "../../src/ledger/capacity.ts";
import { listSnapshots } from "../../src/ledger/snapshots.ts";
import { resolveTemplate } from "../../src/ledger/templates.ts";
import { ensureBaseTemplate } from "../../src/template/base-template.ts";
import { roomy, shape } from "../ledger/support.ts";
import { FakeEngine } from "../support/fake-engine.ts";

const assets = { kernel: "/k", kernelVersion: "6", initramfs: "/i", baseDisk: "/b" };

/** Makes sure that `base`, which the engine has from elsewhere, is made from these assets. */
function ensure({ deps }: FakeEngine, budgets: CapacityBudgets = roomy): Promise<void> {
  const { ledger, driver, clock, log, snapshotsFolder, newTemplateId } = deps;
  const template = { ledger, driver, clock, log, snapshotsFolder, newTemplateId, budgets };
  const hooks = { admitDisk: async () => {}, recordSample: () => {} };
  return ensureBaseTemplate({ ...template, ...hooks }, assets, () => {}, new AbortController().signal);
}

const heldBy = ({ deps }: FakeEngine) => usage(deps.ledger).active.sandboxes;
const making = ({ deps }: FakeEngine) => listSnapshots(deps.ledger, ["making"]);

test("it is made once, in a machine that holds capacity until it is gone", async () => {
  await using engine = await FakeEngine.open();
  const { driver, ledger } = engine.deps;
  const boot = vi.spyOn(driver, "boot").mockClear();
  let held = 0;
  boot.mockImplementationOnce((request) => {
    held = heldBy(engine);
    return driver.boot(request);
  });
  const before = resolveTemplate(ledger, "base").buildId;
  await ensure(engine);
  expect([held, heldBy(engine), engine.host.machines.size]).toEqual([1, 0, 0]);
  expect(resolveTemplate(ledger, "base").buildId).not.toBe(before);
  await ensure(engine);
  // The first one calls the real one.
  expect(boot).toHaveBeenCalledTimes(2);
});

test.each(["boot", "openGuestLink", "pause", "saveSnapshot"] as const)(
  "a failure at %s leaves the template of before, and nothing else",
  async (step) => {
    await using engine = await FakeEngine.open();
    const before = resolveTemplate(engine.deps.ledger, "base").buildId;
    engine.host.arrange(step, { error: new DomainError("machine_failed", "arranged by the test") });
    await expect(ensure(engine)).rejects.toMatchObject({ code: "machine_failed" });
    expect(resolveTemplate(engine.deps.ledger, "base").buildId).toBe(before);
    expect([heldBy(engine), engine.host.machines.size, making(engine)]).toEqual([0, 0, []]);
  },
);

test("it waits until there is room", async () => {
  await using engine = await FakeEngine.open();
  const budgets = { ...roomy, sandboxes: 1 };
  reserve(engine.deps.ledger, { kind: "active", shape, budgets });
  const boot = vi.spyOn(engine.deps.driver, "boot").mockClear();
  await expect(ensure(engine, budgets)).rejects.toMatchObject({ code: "capacity_exhausted" });
  expect([boot.mock.calls, making(engine)]).toEqual([[], []]);
});

test("a machine that does not end keeps its capacity", async () => {
  await using engine = await FakeEngine.open();
  const failure = new DomainError("machine_failed", "it will not go");
  engine.host.arrange("terminate", { error: failure });
  await expect(ensure(engine)).rejects.toThrow();
  expect([heldBy(engine), engine.host.machines.size]).toEqual([1, 1]);
});
