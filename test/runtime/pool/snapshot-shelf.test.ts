/**
 * The shelf, on a pretended host where one snapshot starts one machine: which snapshots are made ahead, which create
 * gets them, and that nothing is left of them.
 */
import { expect, test } from "vitest";
import { DomainError } from "../../../src/errors.ts";
import { usage } from "../../../src/ledger/capacity.ts";
import { moveSandbox } from "../../../src/ledger/sandboxes.ts";
import { listShelf, takeFromShelf } from "../../../src/ledger/shelf.ts";
import { getSnapshot, quarantineSnapshot } from "../../../src/ledger/snapshots.ts";
import { publishBuild, resolveTemplate } from "../../../src/ledger/templates.ts";
import { sourceRevision } from "../../../src/template/build/spec.ts";
import { shape } from "../../ledger/support.ts";
import { FakeDaemon, type FakeDaemonOptions, nothing, running } from "../../support/fakes/fake-daemon.ts";
import { addFakeTemplate } from "../../support/fakes/fake-wiring.ts";

const fanOut = { supported: false, reason: "a machine of this save runs already" } as const;
const locked = { error: new DomainError("not_ready", "the screen is locked") };
const failure = { error: new DomainError("machine_failed", "arranged by the test") };

async function openHost(options: FakeDaemonOptions = {}): Promise<FakeDaemon> {
  const daemon = await FakeDaemon.open(options);
  daemon.host.fanOut = fanOut;
  return daemon;
}

/** Runs rounds of the shelf, each some time after the one before. */
async function keep(daemon: FakeDaemon, rounds = 1): Promise<void> {
  for (let round = 0; round < rounds; round += 1) {
    await daemon.clock.advance(1_000);
    await daemon.deps.shelf.maintain(new AbortController().signal);
    await daemon.settle();
  }
}

const shelved = ({ deps }: FakeDaemon) => listShelf(deps.ledger).length;
const calls = ({ host }: FakeDaemon, step: string) => host.calls.filter((call) => call === step).length;
const onShelf = (saves: number) => ({ ...nothing, snapshots: saves, snapshotFolders: saves });

test("two snapshots of base are made and wait, and no more; with fan-out there are none", async () => {
  await using daemon = await openHost();
  await keep(daemon, 4);
  expect(shelved(daemon)).toBe(2);
  expect(await daemon.remains()).toEqual(onShelf(2));
  expect(usage(daemon.deps.ledger).warm.sandboxes).toBe(0);
  daemon.host.fanOut = { supported: true };
  await keep(daemon);
  expect(await daemon.remains()).toEqual(nothing);
});

test("each create gets a snapshot of its own, used once, and the shelf is filled again", async () => {
  await using daemon = await openHost();
  await keep(daemon, 2);
  const boots = calls(daemon, "boot");
  await Promise.all([daemon.create(), daemon.create(), daemon.create()]);
  const folders = [...daemon.host.machines.values()].map(({ restoredFrom }) => restoredFrom);
  expect(new Set(folders).size).toBe(3);
  expect(calls(daemon, "boot")).toBe(boots);
  await daemon.settle();
  expect(await daemon.remains()).toEqual({ ...nothing, machines: 3, machineFolders: 3, links: 3, reservations: 3 });
  await daemon.create();
  expect(calls(daemon, "boot")).toBe(boots + 1);
  await keep(daemon, 2);
  expect(shelved(daemon)).toBe(2);
});

test("a built template has its start command run again; one without demand, or a snapshot of a sandbox, has no shelf", async () => {
  await using daemon = await openHost();
  const { deps, guests } = daemon;
  const spec = {
    from: { kind: "template", name: "base", tag: undefined } as const,
    steps: [],
    startCommand: "serve",
    readyCommand: "true",
  };
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
  const { record } = await daemon.create({ template: { name: "app", tag: undefined } });
  await keep(daemon, 2);
  const before = guests.commands;
  await keep(daemon, 2);
  expect(guests.commands - before).toBeGreaterThanOrEqual(2);
  const builds = listShelf(deps.ledger).map(({ buildId }) => buildId);
  expect(builds.sort()).toEqual(["build-base", "build-base", "sourced", "sourced"]);
  const { templateId } = await daemon.runtime.snapshots.take(record.id);
  await daemon.create({ template: { name: templateId, tag: undefined } });
  await keep(daemon, 2);
  expect(shelved(daemon)).toBe(4);
  await daemon.clock.advance(25 * 3_600_000);
  await keep(daemon);
  expect(listShelf(deps.ledger).map(({ buildId }) => buildId)).toEqual(["build-base", "build-base"]);
});

test.each([
  { what: "boot", outcome: failure },
  { what: "saveSnapshot", outcome: failure },
  { what: "saveSnapshot", outcome: locked },
] as const)("when $what fails nothing is left, and it is tried again later: $outcome", async ({ what, outcome }) => {
  await using daemon = await openHost();
  daemon.host.arrange(what, outcome);
  const round = keep(daemon);
  if (outcome === locked) await round;
  else await expect(round).rejects.toBe(outcome.error);
  await daemon.settle();
  expect(await daemon.remains()).toEqual(nothing);
  expect(usage(daemon.deps.ledger).warm.sandboxes).toBe(0);
  await keep(daemon);
  expect(shelved(daemon)).toBe(0);
  await daemon.clock.advance(10_000);
  await keep(daemon);
  expect(shelved(daemon)).toBe(1);
});

test("nothing is made on a disk that is nearly full, nor with capacity that a create wants", async () => {
  await using daemon = await openHost({ budgets: { sandboxes: 1 } });
  daemon.disk.freeBytes = 0;
  await keep(daemon);
  expect(shelved(daemon)).toBe(0);
  daemon.disk.freeBytes = 1e12;
  await daemon.clock.advance(10_000);
  daemon.host.arrange("boot", { delayMs: 60_000 });
  const making = keep(daemon);
  await expect.poll(() => usage(daemon.deps.ledger).warm.sandboxes).toBe(1);
  await daemon.create();
  await making;
  expect(shelved(daemon)).toBe(0);
  expect(await daemon.remains()).toEqual(running);
  await keep(daemon);
  expect(shelved(daemon)).toBe(0);
});

test("the next daemon has the complete snapshots; those that were being made or were taken are gone", async () => {
  await using daemon = await openHost();
  await keep(daemon, 2);
  const { ledger } = daemon.deps;
  await daemon.restart(() => takeFromShelf(ledger, "build-base"));
  expect(await daemon.remains()).toEqual(onShelf(1));
  const { record } = await daemon.create();
  await daemon.settle();
  expect(await daemon.remains()).toEqual(running);
  expect(getSnapshot(ledger, record.snapshotId)?.state).toBe("deleted");
  // The daemon died while a sandbox was restored from the snapshot.
  await keep(daemon);
  const [save] = listShelf(ledger);
  const { record: other } = await daemon.create();
  expect(other.snapshotId).toBe(save?.snapshot.id);
  await daemon.restart(() => moveSandbox(ledger, other.id, "running", "terminating", { endReason: "killed" }));
  await daemon.settle();
  expect(await daemon.remains()).toEqual(running);
});

test("a damaged snapshot is passed over and replaced", async () => {
  await using daemon = await openHost();
  await keep(daemon, 2);
  const { ledger } = daemon.deps;
  const [damaged, whole] = listShelf(ledger);
  quarantineSnapshot(ledger, damaged?.snapshot.id ?? "", "a block differs");
  expect((await daemon.create()).record.snapshotId).toBe(whole?.snapshot.id);
  await keep(daemon, 2);
  expect(listShelf(ledger).map(({ snapshot }) => snapshot.state)).toEqual(["ready", "ready"]);
});

test("a fork, which would be two machines of one snapshot, is refused with the reason, and its source goes on", async () => {
  await using daemon = await openHost();
  const { id } = (await daemon.create()).record;
  await expect(daemon.runtime.forks.fork(id, { count: 1, timeoutMs: 1_000 })).rejects.toMatchObject({
    code: "unsupported",
    message: expect.stringContaining(fanOut.reason),
  });
  await daemon.runtime.registry.session(id)?.agent.ping();
  await daemon.pause(id);
  expect((await daemon.runtime.resumes.connect(id, 1_000)).resumed).toBe(true);
});
