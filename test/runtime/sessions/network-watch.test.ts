/** Tests of the watch over the networks of machines, over the fake engine. */
import { expect, test } from "vitest";
import { FakeDaemon } from "../../support/fakes/fake-daemon.ts";

test("a network that broke and was started again, or is gone, is reported once in the sandbox's log", async () => {
  await using daemon = await FakeDaemon.open();
  const { host, logged } = daemon;
  const { id } = (await daemon.create()).record;
  const machine = host.machines.get(daemon.runtime.registry.session(id)?.sessionId ?? "");
  if (!machine) throw new Error("there is no machine");
  const look = () => {
    daemon.runtime.checkHeartbeats();
    return daemon.runtime.observations
      .logs(id, { search: "network", order: "asc", limit: 10 })
      .map(({ level, fields }) => [level, fields.event]);
  };
  machine.networkHealth = { at: "up", restarts: 3 };
  look();
  expect(look()).toEqual([["warn", "network_restarted"]]);
  // The next daemon does not report it once more.
  await daemon.restart();
  look();
  expect(look()).toEqual([["warn", "network_restarted"]]);
  machine.networkHealth = { at: "gone" };
  look();
  expect(look()).toEqual([
    ["warn", "network_restarted"],
    ["error", "network_gone"],
  ]);
  expect(logged.map(({ msg }) => msg)).toEqual([
    "the network of a sandbox broke and is started again when it is needed",
    "the network of a sandbox has ended",
  ]);
});
