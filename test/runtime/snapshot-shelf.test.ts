/** The shelf, on a pretended host on which one save is one machine: what is made ahead, who gets it, what is left of it. */
import { expect, test } from "vitest";
import { DomainError } from "../../src/errors.ts";
import { usage } from "../../src/ledger/capacity.ts";
import { moveSandbox } from "../../src/ledger/sandboxes.ts";
import { listShelf, takeFromShelf } from "../../src/ledger/shelf.ts";
import { getSnapshot, quarantineSnapshot } from "../../src/ledger/snapshots.ts";
import { publishBuild, resolveTemplate } from "../../src/ledger/templates.ts";
import { sourceRevision } from "../../src/template/build-spec.ts";
import { shape } from "../ledger/support.ts";
import { FakeEngine, nothing, running } from "../support/fake-engine.ts";
import { addFakeTemplate } from "../support/fake-wiring.ts";

const fanOut = { supported: false, reason: "a machine of this save runs already" } as const;
const locked = { error: new DomainError("not_ready", "the screen is locked") };
const failure = { error: new DomainError("machine_failed", "arranged by the test") };

async function openHost(budgets: Parameters<typeof FakeEngine.open>[0] = {}): Promise<FakeEngine> {
  const engine = await FakeEngine.open(budgets);
  engine.host.fanOut = fanOut;
  return engine;
}

/** Rounds of the supervisor, each some time after whatever was before. */
async function keep(engine: FakeEngine, rounds = 1): Promise<void> {
  for (let round = 0; round < rounds; round += 1) {
    await engine.clock.advance(1_000);
    await engine.deps.shelf.maintain(new AbortController().signal);
    await engine.settle();
  }
}

const shelved = ({ deps }: FakeEngine) => listShelf(deps.ledger).length;
const calls = ({ host }: FakeEngine, step: string) => host.calls.filter((call) => call === step).length;
const onShelf = (saves: number) => ({ ...nothing, snapshots: saves, snapshotFolders: saves });

test("two saves of base are made and wait, and no more; with fan-out there are none", async () => {
  await using engine = await openHost();
  await keep(engine, 4);
  expect(shelved(engine)).toBe(2);
  expect(await engine.remains()).toEqual(onShelf(2));
  expect(usage(engine.deps.ledger).warm.sandboxes).toBe(0);
  engine.host.fanOut = { supported: true };
  await keep(engine);
  expect(await engine.remains()).toEqual(nothing);
});

test("each create gets a save of its own, used once, and they are made again", async () => {
  await using engine = await openHost();
  await keep(engine, 2);
  const boots = calls(engine, "boot");
  await Promise.all([engine.create(), engine.create(), engine.create()]);
  const folders = [...engine.host.machines.values()].map(({ restoredFrom }) => restoredFrom);
  expect(new Set(folders).size).toBe(3);
  expect(calls(engine, "boot")).toBe(boots);
  await engine.settle();
  expect(await engine.remains()).toEqual({ ...nothing, machines: 3, machineFolders: 3, reservations: 3 });
  await engine.create();
  expect(calls(engine, "boot")).toBe(boots + 1);
  await keep(engine, 2);
  expect(shelved(engine)).toBe(2);
});

test("what was built has its start command run again; what nobody asked for, or is the moment of a sandbox, has no shelf", async () => {
  await using engine = await openHost();
  const { deps, guests } = engine;
  const spec = { from: { name: "base", tag: undefined }, steps: [], startCommand: "serve", readyCommand: "true" };
  const stored = {
    revision: sourceRevision(spec, "build-base"),
    parentBuildId: "build-base",
    spec: JSON.stringify(spec),
  };
  await addFakeTemplate(deps, "app", shape);
  const { snapshot } = resolveTemplate(deps.ledger, "app");
  deps.ledger.statement("delete from template_tags where template_id = 'template-app'").run({});
  deps.ledger.statement("delete from template_builds where id = 'build-app'").run({});
  const tags = ["default"];
  publishBuild(deps.ledger, {
    id: "sourced",
    templateId: "template-app",
    snapshotId: snapshot.id,
    shape,
    tags,
    source: stored,
  });
  const { record } = await engine.create({ template: { name: "app", tag: undefined } });
  await keep(engine, 2);
  const before = guests.commands;
  await keep(engine, 2);
  expect(guests.commands - before).toBeGreaterThanOrEqual(2);
  const builds = listShelf(deps.ledger).map(({ buildId }) => buildId);
  expect(builds.sort()).toEqual(["build-base", "build-base", "sourced", "sourced"]);
  const { templateId } = await engine.runtime.snapshotSandbox(record.id);
  await engine.create({ template: { name: templateId, tag: undefined } });
  await keep(engine, 2);
  expect(shelved(engine)).toBe(4);
  await engine.clock.advance(25 * 3_600_000);
  await keep(engine);
  expect(listShelf(deps.ledger).map(({ buildId }) => buildId)).toEqual(["build-base", "build-base"]);
});

test.each([
  { what: "boot", outcome: failure },
  { what: "saveSnapshot", outcome: failure },
  { what: "saveSnapshot", outcome: locked },
] as const)("when $what fails nothing is left, and it is tried again later: $outcome", async ({ what, outcome }) => {
  await using engine = await openHost();
  engine.host.arrange(what, outcome);
  const round = keep(engine);
  if (outcome === locked) await round;
  else await expect(round).rejects.toBe(outcome.error);
  await engine.settle();
  expect(await engine.remains()).toEqual(nothing);
  expect(usage(engine.deps.ledger).warm.sandboxes).toBe(0);
  await keep(engine);
  expect(shelved(engine)).toBe(0);
  await engine.clock.advance(10_000);
  await keep(engine);
  expect(shelved(engine)).toBe(1);
});

test("nothing is made on a disk that is nearly full, nor with the last of the capacity of a create", async () => {
  await using engine = await openHost({ sandboxes: 1 });
  engine.freeBytes = 0;
  await keep(engine);
  expect(shelved(engine)).toBe(0);
  engine.freeBytes = 1e12;
  await engine.clock.advance(10_000);
  engine.host.arrange("boot", { delayMs: 60_000 });
  const making = keep(engine);
  await expect.poll(() => usage(engine.deps.ledger).warm.sandboxes).toBe(1);
  await engine.create();
  await making;
  expect(shelved(engine)).toBe(0);
  expect(await engine.remains()).toEqual(running);
  await keep(engine);
  expect(shelved(engine)).toBe(0);
});

test("the next daemon has what was complete; what was being made or was taken is gone", async () => {
  await using engine = await openHost();
  await keep(engine, 2);
  const { ledger } = engine.deps;
  await engine.restart(() => takeFromShelf(ledger, "build-base"));
  expect(await engine.remains()).toEqual(onShelf(1));
  const { record } = await engine.create();
  await engine.settle();
  expect(await engine.remains()).toEqual(running);
  expect(getSnapshot(ledger, record.snapshotId)?.state).toBe("deleted");
  // The daemon died while it was restored from it.
  await keep(engine);
  const [save] = listShelf(ledger);
  const { record: other } = await engine.create();
  expect(other.snapshotId).toBe(save?.snapshot.id);
  await engine.restart(() => moveSandbox(ledger, other.id, "running", "terminating", { endReason: "killed" }));
  await engine.settle();
  expect(await engine.remains()).toEqual(running);
});

test("a damaged save is passed over and replaced", async () => {
  await using engine = await openHost();
  await keep(engine, 2);
  const { ledger } = engine.deps;
  const [damaged, whole] = listShelf(ledger);
  quarantineSnapshot(ledger, damaged?.snapshot.id ?? "", "a block differs");
  expect((await engine.create()).record.snapshotId).toBe(whole?.snapshot.id);
  await keep(engine, 2);
  expect(listShelf(ledger).map(({ snapshot }) => snapshot.state)).toEqual(["ready", "ready"]);
});

test("a fork, which would be two machines of one save, is refused with the reason, and its source goes on", async () => {
  await using engine = await openHost();
  const { id } = (await engine.create()).record;
  await expect(engine.runtime.forkSandbox(id, { count: 1, timeoutMs: 1_000 })).rejects.toMatchObject({
    code: "unsupported",
    message: expect.stringContaining(fanOut.reason),
  });
  await engine.runtime.findSession(id)?.agent.ping();
  await engine.runtime.pauseSandbox(id, "stopped");
  expect((await engine.runtime.connectSandbox(id, 1_000)).resumed).toBe(true);
});
