/** Tests of a sandbox's internet access and ingress, through everything that can happen to the sandbox. */
import { expect, test } from "vitest";
import { DomainError } from "../../../src/errors.ts";
import { getSandbox } from "../../../src/ledger/sandboxes.ts";
import type { CreateSandboxRequest } from "../../../src/runtime/contract.ts";
import { openIngress } from "../../support/daemon/ingress.ts";
import { FakeDaemon, pooled } from "../../support/fakes/fake-daemon.ts";

const request: CreateSandboxRequest = {
  template: { name: "base", tag: undefined },
  timeoutMs: 60_000,
  metadata: {},
  envs: {},
  allowInternetAccess: false,
  ingress: openIngress,
  lifecycle: { onTimeout: "kill", keepMemory: true, autoResume: false },
};

/** The access as the machine, the ledger and the clients see it. */
function reaches({ host, ledger, runtime }: FakeDaemon, id: string) {
  const sessionId = getSandbox(ledger, id)?.machine?.sessionId ?? "";
  const told = runtime.registry.get(id).record.allowInternetAccess;
  return [host.machines.get(sessionId)?.hasInternetAccess, getSandbox(ledger, id)?.allowInternetAccess, told];
}

test("a sandbox without internet is created without it, from the warm pool too", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  await daemon.refill();
  const restores = daemon.host.calls.filter((step) => step === "restore").length;
  const warm = await daemon.runtime.creates.create(request);
  expect(reaches(daemon, warm.record.id)).toEqual([false, false, false]);
  expect(daemon.host.calls.filter((step) => step === "restore")).toHaveLength(restores);
  const restored = await daemon.runtime.creates.create(request);
  expect(reaches(daemon, restored.record.id)).toEqual([false, false, false]);
});

test("internet access is switched while a sandbox runs, and is kept over a pause and in forks", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  const { id } = (await daemon.create()).record;
  expect(reaches(daemon, id)).toEqual([true, true, true]);
  await daemon.runtime.internetAccess.set(id, false);
  expect(reaches(daemon, id)).toEqual([false, false, false]);
  const [fork] = await daemon.runtime.forks.fork(id, { count: 1, timeoutMs: 60_000 });
  expect(fork && "view" in fork && reaches(daemon, fork.view.record.id)).toEqual([false, false, false]);
  await daemon.pause(id);
  await expect(daemon.runtime.internetAccess.set(id, true)).rejects.toMatchObject({ code: "not_found" });
  await daemon.runtime.resumes.resume(id, 60_000, { memory: true });
  expect(reaches(daemon, id)).toEqual([false, false, false]);
  await daemon.runtime.internetAccess.set(id, true);
  expect(reaches(daemon, id)).toEqual([true, true, true]);
  await expect(daemon.runtime.internetAccess.set("iaanobody", true)).rejects.toMatchObject({ code: "not_found" });
});

test("a switch that fails is an error, and the access is shown as before", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  const { id } = (await daemon.create()).record;
  const failure = new DomainError("machine_failed", "the network of this machine is gone");
  daemon.host.arrange("setInternetAccess", { error: failure });
  await expect(daemon.runtime.internetAccess.set(id, false)).rejects.toBe(failure);
  expect(reaches(daemon, id)).toEqual([true, true, true]);
});

test("the ingress of a sandbox is kept over a pause and in forks", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  const ingress = { allowPublicTraffic: false, maskRequestHost: "localhost" };
  const { id } = (await daemon.runtime.creates.create({ ...request, ingress })).record;
  expect(daemon.runtime.registry.session(id)?.ingress).toEqual(ingress);
  const [fork] = await daemon.runtime.forks.fork(id, { count: 1, timeoutMs: 60_000 });
  if (!fork || !("view" in fork)) throw new Error("no fork");
  expect(daemon.runtime.registry.session(fork.view.record.id)?.ingress).toEqual(ingress);
  await daemon.pause(id);
  await daemon.runtime.resumes.resume(id, 60_000, { memory: true });
  expect(daemon.runtime.registry.session(id)?.ingress).toEqual(ingress);
});
