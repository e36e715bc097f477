/** Tests of every way in which a sandbox leaves: its log has one end, one sample is taken, and nothing remains. */
import { expect, test, vi } from "vitest";
import { DomainError } from "../../../src/errors.ts";
import { getSandbox } from "../../../src/ledger/sandboxes.ts";
import type { EndReason, SandboxLogEntry } from "../../../src/types.ts";
import { FakeDaemon, nothing } from "../../support/fakes/fake-daemon.ts";

const failure = { error: new DomainError("machine_failed", "arranged by the test") };
const locked = { error: new DomainError("not_ready", "nothing can be saved: the screen is locked") };

const crashAll = ({ host }: FakeDaemon) => {
  for (const sessionId of [...host.machines.keys()]) host.crash(sessionId);
};

interface Way {
  readonly name: string;
  readonly reason: EndReason;
  readonly level: SandboxLogEntry["level"];
  readonly message: string;
  /** Contained in the log's line about the loss, before the end, if the sandbox was lost. */
  readonly loss?: string;
  readonly leave: (daemon: FakeDaemon, id: string) => unknown;
}

const ways: Way[] = [
  {
    name: "a running sandbox is killed",
    reason: "killed",
    level: "info",
    message: "The sandbox was killed",
    leave: ({ runtime }, id) => runtime.ends.kill(id),
  },
  {
    name: "a running sandbox is stopped",
    reason: "stopped",
    level: "info",
    message: "The sandbox was stopped",
    leave: ({ runtime }, id) => runtime.ends.stop(id, 1_000),
  },
  {
    name: "the time of a sandbox is up",
    reason: "expired",
    level: "info",
    message: "The sandbox reached its end of life",
    leave: ({ runtime }, id) => runtime.deadlines.set(id, 0),
  },
  {
    name: "the machine of a running sandbox dies",
    reason: "machine_died",
    level: "error",
    message: "The sandbox's machine died",
    loss: "crashed",
    leave: crashAll,
  },
  {
    name: "a pause fails and its machine cannot go on",
    reason: "machine_died",
    level: "error",
    message: "The sandbox's machine died",
    loss: "The sandbox's machine could not go on after a failed pause: arranged by the test",
    leave: async (daemon, id) => {
      const { runtime, host } = daemon;
      host.arrange("saveSnapshot", failure);
      host.arrange("resume", { ...failure, act: () => crashAll(daemon) });
      await expect(runtime.pauses.pause(id, "stopped")).rejects.toBe(failure.error);
    },
  },
  {
    name: "a paused sandbox is killed",
    reason: "killed",
    level: "info",
    message: "The sandbox was killed",
    leave: async ({ runtime }, id) => {
      await runtime.pauses.pause(id, "stopped");
      await runtime.ends.kill(id);
    },
  },
  {
    name: "a sandbox that is paused in memory is killed",
    reason: "killed",
    level: "info",
    message: "The sandbox was killed",
    leave: async ({ runtime, host }, id) => {
      host.arrange("saveSnapshot", locked);
      await runtime.pauses.pause(id, "stopped");
      await runtime.ends.kill(id);
    },
  },
  {
    name: "the machine of a sandbox that is paused in memory dies",
    reason: "machine_died",
    level: "error",
    message: "The sandbox's machine died",
    loss: "The sandbox's machine died before it could be saved: crashed",
    leave: async (daemon, id) => {
      daemon.host.arrange("saveSnapshot", locked);
      await daemon.pause(id);
      crashAll(daemon);
    },
  },
  {
    name: "a restarted daemon does not find the machine of a running sandbox",
    reason: "lost",
    level: "error",
    message: "The sandbox was lost",
    loss: "The daemon could not take the sandbox up: its machine is gone",
    leave: (daemon) => daemon.restart(() => crashAll(daemon)),
  },
  {
    name: "a restarted daemon does not find the machine of a sandbox that is paused in memory",
    reason: "lost",
    level: "error",
    message: "The sandbox was lost",
    loss: "its machine is gone, and it was paused in memory only",
    leave: async (daemon, id) => {
      daemon.host.arrange("saveSnapshot", locked);
      await daemon.pause(id);
      await daemon.restart(() => crashAll(daemon));
    },
  },
];

test.each(ways)("$name", async ({ reason, level, message, loss, leave }) => {
  await using daemon = await FakeDaemon.open();
  const { id } = (await daemon.create()).record;
  const sample = vi.spyOn(daemon.deps.samples, "record");
  await leave(daemon, id);
  await expect.poll(() => getSandbox(daemon.ledger, id)).toMatchObject({ state: "terminated", endReason: reason });
  await daemon.settle();
  expect(() => daemon.runtime.registry.get(id)).toThrow("doesn't exist");
  expect(await daemon.remains()).toEqual(nothing);
  const log = daemon.runtime.observations.logs(id, { search: "", order: "asc", limit: 100 });
  const named = (event: string) => log.filter(({ fields }) => fields.event === event);
  expect(named("ended")).toMatchObject([{ level, message, fields: { reason } }]);
  expect(log.at(-1)).toBe(named("ended")[0]);
  expect(named("lost").map((line) => line.message)).toEqual(loss === undefined ? [] : [expect.stringContaining(loss)]);
  const samples = sample.mock.calls.filter(([span]) => span === "kill_delete");
  expect(samples).toEqual([["kill_delete", reason, expect.any(Number), id]]);
});
