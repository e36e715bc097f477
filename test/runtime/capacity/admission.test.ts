/** Admission over a pretended host: the order of creates, their answers, and the warm machines that make room. */
import { setImmediate as turn } from "node:timers/promises";
import fc from "fast-check";
import { expect, test } from "vitest";
import type { DomainError } from "../../../src/errors.ts";
import { listWarmEntries } from "../../../src/ledger/warm-entries.ts";
import { decideAdmission, planEvictions } from "../../../src/runtime/capacity/admission-plan.ts";
import { planPool, targetSize } from "../../../src/runtime/pool/plan.ts";
import { shape } from "../../ledger/support.ts";
import { FakeDaemon, pooled } from "../../support/fakes/fake-daemon.ts";

const off = { min: 0, max: 0 };
const failureOf = (work: Promise<unknown>): Promise<DomainError> =>
  work.then(
    () => expect.fail("it did not fail"),
    (error) => error,
  );

/** Begins a create that is expected to wait, and gives its outcome. */
function begin(daemon: FakeDaemon, template?: string, signal?: AbortSignal) {
  const state = { at: "waits" as "waits" | "created" | "failed", id: "", error: undefined as DomainError | undefined };
  const done = daemon.create(template, signal).then(
    ({ record }) => Object.assign(state, { at: "created", id: record.id }),
    (error: DomainError) => Object.assign(state, { at: "failed", error }),
  );
  return { state, done };
}

test("a create that does not fit waits, first come first served, and released capacity wakes the first", async () => {
  await using daemon = await FakeDaemon.open({ ...pooled, budgets: { sandboxes: 1 }, pool: off });
  const first = await daemon.create();
  const [second, third] = [begin(daemon), begin(daemon)];
  await daemon.settle();
  expect([second.state.at, third.state.at, daemon.deps.admission.queueLength]).toEqual(["waits", "waits", 2]);
  await daemon.runtime.ends.kill(first.record.id);
  await second.done;
  await daemon.settle();
  expect([second.state.at, third.state.at]).toEqual(["created", "waits"]);
  await daemon.runtime.ends.kill(second.state.id);
  await third.done;
  expect([third.state.at, daemon.deps.admission.queueLength]).toEqual(["created", 0]);
});

test.each(["kill", "stop"] as const)(
  "a %s does not wait for resumes and follow-ups that wait for capacity",
  async (how) => {
    await using daemon = await FakeDaemon.open({ ...pooled, budgets: { sandboxes: 1 }, pool: off });
    const { id } = (await daemon.create()).record;
    await daemon.pause(id, "idle");
    await daemon.create();
    const waiting = [
      daemon.runtime.forks.followUp(id, { timeoutMs: 1_000 }),
      daemon.runtime.resumes.resume(id, 1_000),
      daemon.runtime.forks.followUp(id, { timeoutMs: 1_000 }),
    ].map(failureOf);
    await expect.poll(() => daemon.deps.admission.queueLength).toBe(1);
    await (how === "kill" ? daemon.runtime.ends.kill(id) : daemon.runtime.ends.stop(id, 1_000));
    for (const failure of await Promise.all(waiting)) expect(failure).toMatchObject({ code: "not_found" });
    expect(daemon.deps.admission.queueLength).toBe(0);
    expect(() => daemon.runtime.registry.get(id)).toThrow("doesn't exist");
  },
);

test("a small create does not overtake a large one that waits", async () => {
  await using daemon = await FakeDaemon.open({ ...pooled, budgets: { memoryMiB: 1024 }, pool: off });
  await daemon.addTemplate("large", { ...shape, memoryMiB: 1024 });
  const first = await daemon.create();
  const [large, small] = [begin(daemon, "large"), begin(daemon)];
  await daemon.settle();
  expect([large.state.at, small.state.at]).toEqual(["waits", "waits"]);
  await daemon.runtime.ends.kill(first.record.id);
  await large.done;
  expect([large.state.at, small.state.at]).toEqual(["created", "waits"]);
});

test("a create that waits too long is told the budget, its request, the rest, and its place", async () => {
  await using daemon = await FakeDaemon.open({ ...pooled, budgets: { memoryMiB: 700 }, pool: off });
  await daemon.create();
  const [second, third] = [begin(daemon), begin(daemon)];
  await turn();
  await daemon.clock.advance(30_000);
  await Promise.all([second.done, third.done]);
  expect(second.state.error).toMatchObject({
    code: "capacity_exhausted",
    message: expect.stringMatching(
      /memory.*needs 512 MiB, 188 MiB of 700 MiB are free.*waited 30 s for it, at place 1 of 2/,
    ),
    details: { dimension: "memoryMiB", requested: 512, available: 188, limit: 700, reason: "timed_out", position: 1 },
  });
  expect([third.state.error?.code, daemon.deps.admission.queueLength]).toEqual(["capacity_exhausted", 0]);
  expect(await daemon.metric('firkin_admissions_total{answer="timed_out"}')).toBe(2);
});

test("a create that can never fit, and one more than may wait, are refused at once", async () => {
  await using daemon = await FakeDaemon.open({
    ...pooled,
    budgets: { memoryMiB: 512 },
    pool: off,
    queue: { limit: 1, timeoutMs: 1_000 },
  });
  await daemon.addTemplate("huge", { ...shape, memoryMiB: 4096 });
  expect(await failureOf(daemon.create("huge"))).toMatchObject({ details: { oversized: true, reason: "oversized" } });
  await daemon.create();
  const waiting = begin(daemon);
  expect(await failureOf(daemon.create())).toMatchObject({
    message: expect.stringContaining("1 creates wait for it already"),
    details: { reason: "queue_full", pending: 1, maxPending: 1 },
  });
  expect(waiting.state.at).toBe("waits");
});

test("without a queue no create waits", async () => {
  await using daemon = await FakeDaemon.open({
    ...pooled,
    budgets: { sandboxes: 1 },
    pool: off,
    queue: { limit: 9, timeoutMs: 0 },
  });
  await daemon.create();
  expect(await failureOf(daemon.create())).toMatchObject({ details: { reason: "queue_off", dimension: "sandboxes" } });
});

test("a client that leaves gives up its place, and the next moves up", async () => {
  await using daemon = await FakeDaemon.open({ ...pooled, budgets: { sandboxes: 1 }, pool: off });
  const first = await daemon.create();
  const leaving = new AbortController();
  const [second, third] = [begin(daemon, "base", leaving.signal), begin(daemon)];
  await turn();
  leaving.abort();
  await second.done;
  expect(second.state.error?.code).toBe("cancelled");
  await daemon.runtime.ends.kill(first.record.id);
  await third.done;
  expect(third.state.at).toBe("created");
  expect(daemon.held().active).toBe(1);
});

test("a daemon that stops refuses every create that waits", async () => {
  await using daemon = await FakeDaemon.open({ ...pooled, budgets: { sandboxes: 1 }, pool: off });
  await daemon.create();
  const waiting = begin(daemon);
  await turn();
  await daemon.runtime.close();
  await waiting.done;
  expect(waiting.state.error?.code).toBe("not_ready");
  expect((await failureOf(daemon.create())).code).toBe("not_ready");
});

test("a disk under pressure refuses at once, whatever the queue", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  daemon.disk.freeBytes = 2 ** 30;
  expect((await failureOf(daemon.create())).code).toBe("disk_pressure");
  expect(daemon.deps.admission.queueLength).toBe(0);
});

test("warm machines make room, oldest first and no more than needed, even without a queue", async () => {
  const queue = { limit: 0, timeoutMs: 0 };
  await using daemon = await FakeDaemon.open({ ...pooled, budgets: { sandboxes: 3 }, pool: { min: 3, max: 3 }, queue });
  await daemon.addTemplate("other");
  for (let n = 0; n < 3; n++) await daemon.refill();
  const before = listWarmEntries(daemon.ledger, ["ready"]).map(({ id }) => id);
  await daemon.create("other");
  expect(listWarmEntries(daemon.ledger, ["ready"]).map(({ id }) => id)).toEqual(before.slice(1));
  expect([daemon.held(), daemon.host.machines.size]).toEqual([{ active: 1, warm: 2 }, 3]);
  await Promise.all([daemon.create("other"), daemon.create("other")]);
  expect([daemon.held(), daemon.host.machines.size]).toEqual([{ active: 3, warm: 0 }, 3]);
  expect(await failureOf(daemon.create())).toMatchObject({ details: { reason: "queue_off" } });
});

test("a machine that is being warmed makes room too", async () => {
  await using daemon = await FakeDaemon.open({
    ...pooled,
    budgets: { sandboxes: 1 },
    queue: { limit: 0, timeoutMs: 0 },
  });
  await daemon.clock.advance(1_000);
  daemon.host.arrange("openGuestLink", { delayMs: 10_000 });
  const round = daemon.deps.warmPool.maintain(new AbortController().signal);
  await expect.poll(() => daemon.host.calls.at(-1)).toBe("openGuestLink");
  await daemon.create();
  await round;
  await daemon.settle();
  expect([daemon.held(), daemon.host.machines.size]).toEqual([{ active: 1, warm: 0 }, 1]);
});

test("no warm machine is evicted when that would not be enough", async () => {
  await using daemon = await FakeDaemon.open({
    ...pooled,
    budgets: { memoryMiB: 1024 },
    queue: { limit: 4, timeoutMs: 1_000 },
  });
  await daemon.addTemplate("large", { ...shape, memoryMiB: 1024 });
  await daemon.create();
  await daemon.refill();
  const large = begin(daemon, "large");
  await daemon.settle();
  expect([large.state.at, daemon.held()]).toEqual(["waits", { active: 1, warm: 1 }]);
});

test("at any moment the queue is in order, and every create gets exactly one answer", async () => {
  const step = fc.constantFrom("create", "create", "create", "kill", "leave", "wait", "refill");
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 30 }), fc.infiniteStream(fc.nat()), async (steps, numbers) => {
      const queue = { limit: 3, timeoutMs: 10_000 };
      await using daemon = await FakeDaemon.open({
        ...pooled,
        budgets: { sandboxes: 2 },
        pool: { min: 1, max: 2 },
        queue,
      });
      const begun: { create: ReturnType<typeof begin>; leave: AbortController }[] = [];
      const waiting = () => begun.filter(({ create }) => create.state.at === "waits");
      for (const what of steps) {
        if (what === "create") {
          const leave = new AbortController();
          begun.push({ create: begin(daemon, "base", leave.signal), leave });
        } else if (what === "kill") {
          const [session] = daemon.runtime.registry.sessions();
          if (session) await daemon.runtime.ends.kill(session.sandboxId);
        } else if (what === "leave") {
          const all = waiting();
          all[Number(numbers.next().value) % (all.length || 1)]?.leave.abort();
        } else if (what === "wait") await daemon.clock.advance(4_000);
        else await daemon.refill();
        await daemon.settle();
        // Admitted creates are restored from real files.
        await expect.poll(() => waiting().length - daemon.deps.admission.queueLength, { interval: 1 }).toBe(0);
        const { active, warm } = daemon.held();
        expect(active + warm).toBeLessThanOrEqual(2);
        expect(daemon.deps.admission.queueLength).toBeLessThanOrEqual(3);
        // No create waits while there is room, or a warm machine that could make some.
        if (daemon.deps.admission.queueLength > 0) expect(active).toBe(2);
        // Of the creates that were not refused, earlier ones are admitted before later ones.
        const answers = begun.map(({ create }) => create.state.at).filter((at) => at !== "failed");
        expect(answers.lastIndexOf("created")).toBeLessThan(answers.indexOf("waits") >>> 0);
      }
      await daemon.clock.advance(20_000);
      await Promise.all(begun.map(({ create }) => create.done));
    }),
    { numRuns: 60 },
  );
});

const budgets = { vcpuCount: 100, memoryMiB: 100, diskMiB: 100, sandboxes: 100 };
const sizes = fc.record({
  vcpuCount: fc.integer({ min: 1, max: 30 }),
  memoryMiB: fc.integer({ min: 1, max: 30 }),
  diskMiB: fc.integer({ min: 0, max: 30 }),
});
type Size = typeof shape;
const sum = (shapes: readonly Size[]) => ({
  vcpuCount: shapes.reduce((total, it) => total + it.vcpuCount, 0),
  memoryMiB: shapes.reduce((total, it) => total + it.memoryMiB, 0),
  diskMiB: shapes.reduce((total, it) => total + it.diskMiB, 0),
  sandboxes: shapes.length,
});
const fitTogether = (shapes: readonly Size[]) => {
  const total = sum(shapes);
  return total.vcpuCount <= 100 && total.memoryMiB <= 100 && total.diskMiB <= 100;
};

test("a position is one more than the number of creates ahead, and the answer fits the figures", () => {
  fc.assert(
    fc.property(
      fc.array(sizes, { maxLength: 6 }),
      fc.array(sizes, { maxLength: 3 }),
      fc.array(sizes, { maxLength: 4 }),
      sizes,
      (staying, leaving, ahead, asked) => {
        const usage = { active: sum([...staying, ...leaving]), warm: sum([]) };
        const bounds = { limit: 3, timeoutMs: 1 };
        const decision = decideAdmission({ shape: asked, usage, leaving: sum(leaving), budgets, ahead, bounds });
        if (fitTogether([...staying, ...ahead, asked])) expect(decision.answer).toBe("wait_for_leaving");
        else if (ahead.length >= 3) expect(decision).toMatchObject({ answer: "reject", reason: "queue_full" });
        else expect(decision).toMatchObject({ answer: "queue", position: ahead.length + 1 });
      },
    ),
  );
});

test("evictions are the oldest machines, enough for the creates that can get in, and not one too many", () => {
  fc.assert(
    fc.property(
      fc.array(sizes, { maxLength: 3 }),
      fc.array(sizes, { maxLength: 5 }),
      fc.array(sizes, { maxLength: 2 }),
      fc.array(sizes, { minLength: 1, maxLength: 4 }),
      (active, warm, leaving, waiting) => {
        const evictable = warm.map((it, n) => ({ id: String(n), shape: it }));
        const usage = { active: sum(active), warm: sum([...warm, ...leaving]) };
        const evicted = planEvictions({ usage, budgets, waiting, evictable, leaving });
        expect(evicted).toEqual(evictable.slice(0, evicted.length).map(({ id }) => id));
        let admitted = 0;
        while (admitted < waiting.length && fitTogether([...active, ...waiting.slice(0, admitted + 1)])) admitted += 1;
        const first = [...active, ...waiting.slice(0, admitted)];
        if (admitted === 0) expect(evicted).toEqual([]);
        else {
          expect(fitTogether([...first, ...warm.slice(evicted.length)])).toBe(true);
          if (evicted.length > 0) expect(fitTogether([...first, ...warm.slice(evicted.length - 1)])).toBe(false);
        }
      },
    ),
  );
});

test("the pool keeps young machines of its targets and no more than wanted; it makes the one that lacks most", () => {
  const key = fc.integer({ min: 0, max: 3 }).map((n) => ({ templateId: `t${n}`, buildId: "b", runtimeProfile: "p" }));
  const member = fc.record({ key, createdAtMs: fc.integer({ min: 0, max: 100 }) });
  const wanted = fc.uniqueArray(fc.record({ key, size: fc.nat({ max: 4 }) }), { selector: (it) => it.key.templateId });
  fc.assert(
    fc.property(wanted, fc.array(member, { maxLength: 12 }), (some, unordered) => {
      const targets = some.map((it) => ({ ...it, snapshotId: "s", snapshotFolder: "/s", shape, mayBoot: false }));
      const members = unordered
        .sort((one, other) => one.createdAtMs - other.createdAtMs)
        .map((it, n) => ({ ...it, id: String(n) }));
      const { discard, refill } = planPool(targets, members, 100, 60);
      const gone = new Set(discard.map(({ id }) => id));
      expect(gone.size).toBe(discard.length);
      const kept = members.filter(({ id }) => !gone.has(id));
      const lacking = targets.map((target) => {
        const of = (list: typeof members) => list.filter((it) => it.key.templateId === target.key.templateId);
        const young = of(members).filter(({ createdAtMs }) => createdAtMs > 40);
        expect(of(kept)).toEqual(young.slice(Math.max(0, young.length - target.size)));
        return target.size - of(kept).length;
      });
      const names = new Set(targets.map((target) => target.key.templateId));
      expect(kept.every((it) => names.has(it.key.templateId))).toBe(true);
      const most = Math.max(0, ...lacking);
      expect(refill === undefined).toBe(most === 0);
      if (refill) expect(lacking[targets.indexOf(refill)]).toBe(most);
    }),
  );
});

test("the size follows demand between its bounds", () => {
  const sizeOf = (demand: number) => targetSize({ min: 1, max: 4, demand });
  expect([0, 1, 3, 9].map(sizeOf)).toEqual([1, 1, 3, 4]);
});
