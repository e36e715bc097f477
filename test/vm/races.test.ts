/** Races: many clients at once on the same few sandboxes get documented answers only, and leave nothing. */
import { Sandbox } from "e2b";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { missingForRealMachines } from "../support/daemon/real-daemon.ts";
import { call, connectionTo, post } from "../support/daemon/requests.ts";
import { FaultWorld } from "../support/faults/world.ts";

const clients = 50;
const callsEach = 4;

/** The documented statuses of each call. 429: there is no capacity for another sandbox at the moment. */
const documented = {
  pause: [204, 404, 409],
  resume: [201, 404, 409, 429],
  connect: [200, 201, 404, 429],
  fork: [201, 404, 409],
  info: [200, 404],
  timeout: [204, 404],
  kill: [204, 404],
} as const;
type Call = keyof typeof documented;

/** The errors of a command whose sandbox is paused, resumed or killed while the command runs. */
const commandErrors = [
  /^Sandbox is probably not running anymore$/,
  /sandbox .* (not found|was not found)/i,
  /The sandbox was (paused|killed)/,
  /Paused sandbox|is paused/,
  // A session that ends drops its connections. When the SDK asks why, the sandbox may be running again.
  /^2: \[unknown\] (fetch failed|terminated)$/,
];

/** Gives the same numbers in every run, so that a failure can be repeated. */
function numbersFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31;
    return state / 2 ** 31;
  };
}

describe.skipIf(missingForRealMachines())("races", () => {
  let world: FaultWorld;
  beforeAll(async () => {
    world = await FaultWorld.open();
  });
  afterAll(() => world?.[Symbol.asyncDispose]());

  const requests: Record<Call, (id: string) => Promise<Response>> = {
    pause: (id) => post(world.daemon, `/sandboxes/${id}/pause`),
    resume: (id) => post(world.daemon, `/sandboxes/${id}/resume`, { timeout: 600 }),
    connect: (id) => post(world.daemon, `/v2/sandboxes/${id}/connect`, { timeout: 600 }),
    fork: (id) => post(world.daemon, `/sandboxes/${id}/fork`, { timeout: 600 }),
    info: (id) => call(world.daemon, `/sandboxes/${id}`),
    timeout: (id) => post(world.daemon, `/sandboxes/${id}/timeout`, { timeout: 600 }),
    kill: (id) => call(world.daemon, `/sandboxes/${id}`, { method: "DELETE" }),
  };

  test("fifty clients that pause, resume, fork, kill and run commands get documented answers only", async () => {
    const connection = connectionTo(world.daemon);
    const made = await Promise.all(
      [1, 2, 3, 4].map(() => Sandbox.create("base", { ...connection, timeoutMs: 600_000 })),
    );
    const unexpected: string[] = [];
    const seen = new Map<string, number>();
    const note = (what: string) => seen.set(what, (seen.get(what) ?? 0) + 1);

    const request = async (name: Call, id: string) => {
      const answer = await requests[name](id);
      const text = await answer.text();
      note(`${name} ${answer.status}`);
      if (!(documented[name] as readonly number[]).includes(answer.status)) {
        unexpected.push(`${name} answered ${answer.status}: ${text}`);
      }
      if (name !== "fork" || answer.status !== 201) return;
      for (const outcome of JSON.parse(text) as { sandbox?: { sandboxID: string }; error?: { code: number } }[]) {
        if (outcome.sandbox) await request("kill", outcome.sandbox.sandboxID);
        else if (outcome.error?.code !== 429) unexpected.push(`fork: ${JSON.stringify(outcome.error)}`);
      }
    };
    const command = async (sandbox: Sandbox) => {
      try {
        expect((await sandbox.commands.run("echo $((6 * 7))")).stdout).toBe("42\n");
        note("command ran");
      } catch (error) {
        const { message } = error as Error;
        note("command failed");
        if (!commandErrors.some((pattern) => pattern.test(message))) unexpected.push(`command: ${message}`);
      }
    };

    const client = async (number: number) => {
      const next = numbersFrom(number + 1);
      for (let turn = 0; turn < callsEach; turn++) {
        const sandbox = made[Math.floor(next() * made.length)];
        if (!sandbox) throw new Error("no sandbox");
        const id = sandbox.sandboxId;
        const chance = next();
        if (chance < 0.2) await request("pause", id);
        else if (chance < 0.35) await request("resume", id);
        else if (chance < 0.5) await request("connect", id);
        else if (chance < 0.58) await request("fork", id);
        else if (chance < 0.66) await request("info", id);
        else if (chance < 0.74) await request("timeout", id);
        // Late, so that there is something to race for.
        else if (chance < 0.78 && turn === callsEach - 1) await request("kill", id);
        else await command(sandbox);
      }
    };
    await Promise.all(Array.from({ length: clients }, (_, number) => client(number)));
    for (const { sandboxId } of made) await request("kill", sandboxId);
    expect(unexpected, JSON.stringify(Object.fromEntries(seen))).toEqual([]);
    for (const did of ["pause 204", "resume 201", "fork 201", "command ran"])
      expect(seen.get(did), did).toBeGreaterThan(0);
    await world.bystanderCounts();
    await world.sleeperCounts();
    expect(await world.leftovers()).toEqual([]);
  });
});
