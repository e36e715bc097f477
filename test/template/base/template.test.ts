/** The base template over the fake engine: made once for its ingredients, and within the budgets. */
import { expect, test, vi } from "vitest";
import { DomainError } from "../../../src/errors.ts";
import { type CapacityBudgets, reserve, usage } from "../../../src/ledger/capacity.ts";
import { listSnapshots } from "../../../src/ledger/snapshots.ts";
import { resolveTemplate } from "../../../src/ledger/templates.ts";
import { readSnapshot } from "../../../src/machine/snapshot-files.ts";
import { ensureBaseTemplate } from "../../../src/template/base/template.ts";
import { roomy, shape } from "../../ledger/support.ts";
import { FakeDaemon } from "../../support/fakes/fake-daemon.ts";

const assets = { kernel: "/k", kernelVersion: "6", agent: "/agent", initramfs: "/i", baseDisk: "/b" };

/** Makes sure that `base`, which the fake host already has, is made from these assets. */
function ensure({ deps }: FakeDaemon, budgets: CapacityBudgets = roomy): Promise<void> {
  const { ledger, driver, clock, log, reach, trust, snapshotsFolder, newTemplateId } = deps;
  const template = { ledger, driver, clock, log, reach, trust, snapshotsFolder, newTemplateId, budgets };
  const hooks = { admitDisk: async () => {}, recordSample: () => {} };
  return ensureBaseTemplate({ ...template, ...hooks }, assets, () => {}, new AbortController().signal);
}

const heldBy = ({ deps }: FakeDaemon) => usage(deps.ledger).active.sandboxes;
const making = ({ deps }: FakeDaemon) => listSnapshots(deps.ledger, ["making"]);

test("the template is made once, in a machine that holds capacity until it is gone", async () => {
  await using daemon = await FakeDaemon.open();
  const { driver, ledger } = daemon.deps;
  const boot = vi.spyOn(driver, "boot").mockClear();
  let held = 0;
  boot.mockImplementationOnce((request) => {
    held = heldBy(daemon);
    return driver.boot(request);
  });
  const before = resolveTemplate(ledger, "base").buildId;
  await ensure(daemon);
  expect([held, heldBy(daemon), daemon.host.machines.size]).toEqual([1, 0, 0]);
  expect(resolveTemplate(ledger, "base").buildId).not.toBe(before);
  await ensure(daemon);
  // The first boot calls the fake engine's own boot.
  expect(boot).toHaveBeenCalledTimes(2);
});

test.each(["boot", "openGuestLink", "pause", "saveSnapshot"] as const)(
  "a failure at %s leaves the template of before, and nothing else",
  async (step) => {
    await using daemon = await FakeDaemon.open();
    const before = resolveTemplate(daemon.deps.ledger, "base").buildId;
    daemon.host.arrange(step, { error: new DomainError("machine_failed", "arranged by the test") });
    await expect(ensure(daemon)).rejects.toMatchObject({ code: "machine_failed" });
    expect(resolveTemplate(daemon.deps.ledger, "base").buildId).toBe(before);
    expect([heldBy(daemon), daemon.host.machines.size, making(daemon)]).toEqual([0, 0, []]);
  },
);

test("the template is not made before there is room", async () => {
  await using daemon = await FakeDaemon.open();
  const budgets = { ...roomy, sandboxes: 1 };
  reserve(daemon.deps.ledger, { kind: "active", shape, budgets });
  const boot = vi.spyOn(daemon.deps.driver, "boot").mockClear();
  await expect(ensure(daemon, budgets)).rejects.toMatchObject({ code: "capacity_exhausted" });
  expect([boot.mock.calls, making(daemon)]).toEqual([[], []]);
});

test("a machine that does not end keeps its capacity", async () => {
  await using daemon = await FakeDaemon.open();
  const failure = new DomainError("machine_failed", "it will not go");
  daemon.host.arrange("terminate", { error: failure });
  await expect(ensure(daemon)).rejects.toThrow();
  expect([heldBy(daemon), daemon.host.machines.size]).toEqual([1, 1]);
});

test("a host that saves no memory now has a template that is booted, and one with memory as soon as it can", async () => {
  await using daemon = await FakeDaemon.open();
  const { driver, ledger } = daemon.deps;
  const hasMemory = async () =>
    (await readSnapshot(resolveTemplate(ledger, "base").snapshot.folder)).files.memory !== undefined;
  daemon.host.arrange("saveSnapshot", { error: new DomainError("not_ready", "the screen is locked") });
  await ensure(daemon);
  expect(await hasMemory()).toBe(false);
  const locked = { supported: false, reason: "the screen is locked" } as const;
  const info = { ...driver.info, abilities: { ...driver.info.abilities, memorySnapshot: locked } };
  const getter = vi.spyOn(driver, "info", "get").mockReturnValue(info);
  const boot = vi.spyOn(driver, "boot").mockClear();
  await ensure(daemon);
  expect(boot).not.toHaveBeenCalled();
  getter.mockRestore();
  await ensure(daemon);
  expect(await hasMemory()).toBe(true);
  await ensure(daemon);
  expect(boot).toHaveBeenCalledOnce();
  expect([heldBy(daemon), daemon.host.machines.size, making(daemon)]).toEqual([0, 0, []]);
});

test("a host that never saves memory has a template that is booted", async () => {
  await using daemon = await FakeDaemon.open();
  const { driver, ledger } = daemon.deps;
  const never = { supported: false, reason: "no machine could be saved and restored" } as const;
  vi.spyOn(driver, "info", "get").mockReturnValue({
    ...driver.info,
    abilities: { ...driver.info.abilities, memorySnapshot: never },
  });
  await ensure(daemon);
  const { files } = await readSnapshot(resolveTemplate(ledger, "base").snapshot.folder);
  expect(files.memory).toBeUndefined();
});
