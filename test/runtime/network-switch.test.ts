/** Whether a sandbox reaches the internet, and who may reach it, through everything that can happen to it. */
import { expect, test } from "vitest";
import { DomainError } from "../../src/errors.ts";
import { getSandbox } from "../../src/ledger/sandboxes.ts";
import type { CreateSandboxRequest } from "../../src/runtime/runtime.ts";
import { openIngress } from "../support/ingress.ts";
import { openWorld, type World } from "../support/runtime-world.ts";

const request: CreateSandboxRequest = {
  template: { name: "base", tag: undefined },
  timeoutMs: 60_000,
  metadata: {},
  envs: {},
  allowInternetAccess: false,
  ingress: openIngress,
  lifecycle: { onTimeout: "kill", keepMemory: true, autoResume: false },
};

/** What the machine does, what the ledger has, what clients are told. */
function reaches({ host, ledger, runtime }: World, id: string) {
  const sessionId = getSandbox(ledger, id)?.machine?.sessionId ?? "";
  const told = runtime.getSandbox(id).record.allowInternetAccess;
  return [host.machines.get(sessionId)?.hasInternetAccess, getSandbox(ledger, id)?.allowInternetAccess, told];
}

test("a sandbox without internet is made without it, from the warm pool too", async () => {
  await using world = await openWorld();
  await world.refill();
  const restores = world.host.calls.filter((step) => step === "restore").length;
  const warm = await world.runtime.createSandbox(request);
  expect(reaches(world, warm.record.id)).toEqual([false, false, false]);
  expect(world.host.calls.filter((step) => step === "restore")).toHaveLength(restores);
  const restored = await world.runtime.createSandbox(request);
  expect(reaches(world, restored.record.id)).toEqual([false, false, false]);
});

test("it is switched while it runs, and stays so over a pause and in forks", async () => {
  await using world = await openWorld();
  const { id } = (await world.create()).record;
  expect(reaches(world, id)).toEqual([true, true, true]);
  await world.runtime.setSandboxInternetAccess(id, false);
  expect(reaches(world, id)).toEqual([false, false, false]);
  const [fork] = await world.runtime.forkSandbox(id, { count: 1, timeoutMs: 60_000 });
  expect(fork && "view" in fork && reaches(world, fork.view.record.id)).toEqual([false, false, false]);
  await world.runtime.pauseSandbox(id, "stopped");
  await expect(world.runtime.setSandboxInternetAccess(id, true)).rejects.toMatchObject({ code: "not_found" });
  await world.runtime.resumeSandbox(id, 60_000, { memory: true });
  expect(reaches(world, id)).toEqual([false, false, false]);
  await world.runtime.setSandboxInternetAccess(id, true);
  expect(reaches(world, id)).toEqual([true, true, true]);
  await expect(world.runtime.setSandboxInternetAccess("iaanobody", true)).rejects.toMatchObject({ code: "not_found" });
});

test("a switch that fails is an error, and nobody is told that it happened", async () => {
  await using world = await openWorld();
  const { id } = (await world.create()).record;
  const failure = new DomainError("machine_failed", "the network of this machine is gone");
  world.host.arrange("setInternetAccess", { error: failure });
  await expect(world.runtime.setSandboxInternetAccess(id, false)).rejects.toBe(failure);
  expect(reaches(world, id)).toEqual([true, true, true]);
});

test("who may reach a sandbox is kept over a pause and in forks", async () => {
  await using world = await openWorld();
  const ingress = { allowPublicTraffic: false, maskRequestHost: "localhost" };
  const { id } = (await world.runtime.createSandbox({ ...request, ingress })).record;
  expect(world.runtime.findSession(id)?.ingress).toEqual(ingress);
  const [fork] = await world.runtime.forkSandbox(id, { count: 1, timeoutMs: 60_000 });
  if (!fork || !("view" in fork)) throw new Error("no fork");
  expect(world.runtime.findSession(fork.view.record.id)?.ingress).toEqual(ingress);
  await world.runtime.pauseSandbox(id, "stopped");
  await world.runtime.resumeSandbox(id, 60_000, { memory: true });
  expect(world.runtime.findSession(id)?.ingress).toEqual(ingress);
});
