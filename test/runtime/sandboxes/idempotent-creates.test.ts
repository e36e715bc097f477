/** Tests of creates that are sent again with the same key: they make one sandbox, whatever happened between them. */
import { expect, test } from "vitest";
import { DomainError } from "../../../src/errors.ts";
import { FakeDaemon, running } from "../../support/fakes/fake-daemon.ts";
import { requestFor } from "../../support/fakes/fake-wiring.ts";

const request = requestFor("base", 60_000);
const options = { idempotencyKey: "a-1" };
const failure = { error: new DomainError("machine_failed", "arranged by the test") };

test("the same key and request give the same sandbox: at once, afterwards, and after a restart", async () => {
  await using daemon = await FakeDaemon.open();
  const create = () => daemon.runtime.creates.create(request, options);
  const [first, second] = await Promise.all([create(), create()]);
  expect(second.record.id).toBe(first.record.id);
  expect((await create()).record.id).toBe(first.record.id);
  await daemon.restart();
  expect((await create()).record.id).toBe(first.record.id);
  expect(await daemon.remains()).toEqual(running);
  expect((await daemon.create()).record.id).not.toBe(first.record.id);
});

test("another request under a key, and a key whose sandbox has ended, are refused", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime } = daemon;
  const { id } = (await runtime.creates.create(request, options)).record;
  const other = { ...request, timeoutMs: 1 };
  await expect(runtime.creates.create(other, options)).rejects.toMatchObject({ code: "idempotency_mismatch" });
  await runtime.ends.kill(id);
  await expect(runtime.creates.create(request, options)).rejects.toThrow("has ended");
});

test("the key of a create that failed may be used again", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime, host } = daemon;
  host.arrange("restore", failure);
  await expect(runtime.creates.create(request, options)).rejects.toBe(failure.error);
  const { id } = (await runtime.creates.create(request, options)).record;
  expect((await runtime.creates.create(request, options)).record.id).toBe(id);
  await daemon.settle();
  expect(await daemon.remains()).toEqual(running);
});
