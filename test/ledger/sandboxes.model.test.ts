/**
 * Random sequences of admissions, moves, stale moves and crashes: states follow the table, capacity follows the states.
 */
import { mkdtempSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { isDomainError } from "../../src/errors.ts";
import { listUnownedReservations, reserve, usage } from "../../src/ledger/capacity.ts";
import type { Ledger } from "../../src/ledger/open.ts";
import {
  endSandbox,
  forgetMachine,
  getSandbox,
  listSandboxes,
  moveSandbox,
  nextStates,
  type SandboxChanges,
} from "../../src/ledger/sandboxes.ts";
import type { SandboxState } from "../../src/types.ts";
import { CrashingLedger } from "./crashing-ledger.ts";
import { addReadySnapshot, addSandbox, machineOf, roomy, shape, temporaryFolder } from "./support.ts";

const states = Object.keys(nextStates) as SandboxState[];

interface Expected {
  state: SandboxState;
  /** Whether the sandbox holds a reservation. */
  holds: boolean;
}
type Model = Map<string, Expected>;
type Command = fc.Command<Model, CrashingLedger>;

function checkInvariants(model: Model, { ledger }: CrashingLedger): void {
  for (const [id, { state }] of model) expect(getSandbox(ledger, id)?.state).toBe(state);
  expect(usage(ledger).active.sandboxes).toBe([...model.values()].filter(({ holds }) => holds).length);
  expect(listUnownedReservations(ledger)).toEqual([]);
  const live = [...model].filter(([, { state }]) => state !== "terminated").map(([id]) => id);
  expect(new Set(listSandboxes(ledger).map(({ id }) => id))).toEqual(new Set(live));
}

function command(name: string, run: (model: Model, real: CrashingLedger) => void): Command {
  return {
    check: () => true,
    run(model, real) {
      run(model, real);
      checkInvariants(model, real);
    },
    toString: () => name,
  };
}

/** The changes that the runtime gives with a move: a reservation and a machine to resume, a reason to end. */
function moveAsTheRuntime(ledger: Ledger, id: string, from: SandboxState, to: SandboxState): void {
  const changes: SandboxChanges = {
    ...(to === "running" || to === "pausing" ? { machine: machineOf(`session-${id}`) } : {}),
    ...(from === "resuming" && to === "paused" ? { machine: null } : {}),
    ...(to === "terminating" || to === "terminated" ? { endReason: "killed" } : {}),
  };
  const move = () => {
    if (to !== "resuming" || from !== "paused") return void moveSandbox(ledger, id, from, to, changes);
    const { id: reservationId } = reserve(ledger, { kind: "active", shape, budgets: roomy, sandboxId: id });
    moveSandbox(ledger, id, from, to, { ...changes, reservationId });
  };
  if (to === "paused") ledger.writeDurably(move);
  else ledger.write(move);
}

const admit = (id: string) =>
  command(`admit ${id}`, (model, { ledger }) => {
    if (model.has(id)) return;
    addSandbox(ledger, id);
    model.set(id, { state: "creating", holds: true });
  });

/** A move by a caller that believes that the sandbox is in `from`. */
const move = (id: string, from: SandboxState, to: SandboxState) =>
  command(`move ${id} from ${from} to ${to}`, (model, { ledger }) => {
    const expected = model.get(id);
    const targets: readonly SandboxState[] = nextStates[from];
    const isEnding = from === "paused" && expected?.holds === true;
    const legal = expected?.state === from && targets.includes(to) && !(to === "resuming" && isEnding);
    try {
      moveAsTheRuntime(ledger, id, from, to);
      expect(legal).toBe(true);
      if (!expected) return;
      expected.state = to;
      if ((to === "paused" && from === "resuming") || to === "terminated") expected.holds = false;
      if (to === "resuming") expected.holds = true;
    } catch (error) {
      // already_exists: a stale resume finds the reservation that the sandbox holds already.
      const known = isDomainError(error, "invalid_state") || isDomainError(error, "not_found");
      if (!known && !isDomainError(error, "internal") && !isDomainError(error, "already_exists")) throw error;
      expect(legal).toBe(false);
    }
  });

/** The machine of a pause has ended, or a caller believes so. */
const forget = (id: string) =>
  command(`forget the machine of ${id}`, (model, { ledger }) => {
    const expected = model.get(id);
    const isEnding = expected?.state === "paused" && expected.holds;
    expect(forgetMachine(ledger, id, "session-of-another")).toBeUndefined();
    const after = forgetMachine(ledger, id, `session-${id}`);
    expect(after?.machine).toBe(isEnding ? null : undefined);
    if (isEnding) expected.holds = false;
  });

/**
 * A legal move from the sandbox's present state. Choice 0 leads round by way of paused. Most steps take it, because few
 * sequences would get that far otherwise.
 */
const step = (id: string, choice: number) =>
  command(`step ${id} ${choice}`, (model, real) => {
    const from = model.get(id)?.state;
    const targets: readonly SandboxState[] = from === undefined ? [] : nextStates[from];
    const to = targets[choice % targets.length];
    if (from === "paused") forget(id).run(model, real);
    if (from && to) move(id, from, to).run(model, real);
  });

const end = (id: string) =>
  command(`end ${id}`, (model, { ledger }) => {
    const expected = model.get(id);
    if (expected?.state !== "terminating" && expected?.state !== "terminated") return;
    expect(endSandbox(ledger, id).state).toBe("terminated");
    model.set(id, { state: "terminated", holds: false });
  });

const crash = () => command("crash", (_, real) => real.crash());

const crashWhileAdmitting = () =>
  command("crash while admitting", (_, real) => {
    real.crashWithin((ledger) => addSandbox(ledger, "never"));
    expect(getSandbox(real.ledger, "never")).toBeUndefined();
  });

const crashWhileEnding = (id: string) =>
  command(`crash while ending ${id}`, (model, real) => {
    const state = model.get(id)?.state;
    if (state === "terminating") real.crashWithin((ledger) => endSandbox(ledger, id));
    if (state === "paused") real.crashWithin((ledger) => forgetMachine(ledger, id, `session-${id}`));
  });

test("in every order of moves and crashes capacity is held exactly in the states that need it", () => {
  const folder = temporaryFolder();
  const id = fc.constantFrom("i1", "i2");
  const state = fc.constantFrom(...states);
  const commands = fc.commands<Model, CrashingLedger>(
    [
      id.map(admit),
      id.map((i) => step(i, 0)),
      id.map((i) => step(i, 0)),
      id.map((i) => step(i, 0)),
      fc.tuple(id, fc.integer({ min: 1, max: 2 })).map(([i, choice]) => step(i, choice)),
      fc.tuple(id, state, state).map(([i, from, to]) => move(i, from, to)),
      id.map(end),
      id.map(forget),
      fc.constant(null).map(crash),
      fc.constant(null).map(crashWhileAdmitting),
      id.map(crashWhileEnding),
    ],
    { maxCommands: 60, size: "max" },
  );
  fc.assert(
    fc.property(commands, (sequence) => {
      using real = new CrashingLedger(mkdtempSync(join(folder, "run-")));
      addReadySnapshot(real.ledger);
      fc.modelRun(() => ({ model: new Map(), real }), sequence);
    }),
    { numRuns: 60 },
  );
});
