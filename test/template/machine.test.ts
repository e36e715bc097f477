/** Tests of the machine that a template is made in, over the fake engine. */
import { expect, test } from "vitest";
import { Scope } from "../../src/scope.ts";
import { openAgentIn } from "../../src/template/machine/machine.ts";
import { FakeDaemon } from "../support/fakes/fake-daemon.ts";

test("a template's machine that found no room on the host's disk tries again for as long as it is worked in", async () => {
  await using daemon = await FakeDaemon.open({ retriesByHand: true });
  const { clock, deps, host } = daemon;
  const shape = { vcpuCount: 1, memoryMiB: 64, diskMiB: 64 };
  const vm = await deps.driver.boot({ sessionId: "a", shape, kernel: "/k", initramfs: "/i", baseDisk: "/b" });
  const machine = host.machines.get("a");
  const tries = () => host.calls.filter((step) => step === "resume").length;
  {
    await using scope = new Scope();
    await openAgentIn(scope, vm, { clock, log: deps.log, signal: new AbortController().signal });
    await clock.advance(5_000);
    expect(tries()).toBe(0);
    Object.assign(machine ?? {}, { blockedBy: "No space left on device" });
    await clock.advance(5_000);
    expect([tries(), vm.blockedBy]).toEqual([1, undefined]);
  }
  Object.assign(machine ?? {}, { blockedBy: "No space left on device" });
  await clock.advance(5_000);
  expect(tries()).toBe(1);
});
