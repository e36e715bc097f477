import { expect, test, vi } from "vitest";
import type { Ledger } from "../../src/ledger/open.ts";
import { Keyring } from "../../src/team/keyring.ts";
import { newApiKey } from "../../src/team/machine-key.ts";
import { failureOf, manualClock, memoryLedger } from "../ledger/support.ts";

const machineKey = newApiKey();

function open(ledger: Ledger = memoryLedger()) {
  const clock = manualClock();
  return { ledger, clock, keyring: new Keyring({ ledger, clock, machineKey, newKey: newApiKey }) };
}

test("the machine's key and further keys are accepted, and nothing else is", () => {
  const { keyring, ledger } = open();
  const { key, view } = keyring.create("ci");
  expect(key).toMatch(/^e2b_[0-9a-f]{40}$/);
  for (const accepted of [machineKey, key]) expect(keyring.accepts(accepted)).toBe(true);
  for (const refused of ["", "e2b_", `${key} `, key.toUpperCase(), key.slice(0, -1), "e2b_0".padEnd(44, "0")]) {
    expect(keyring.accepts(refused)).toBe(false);
  }
  expect(view.mask).toEqual({ prefix: "e2b_", valueLength: 40, first: key.slice(4, 6), last: key.slice(-4) });
  expect(new Keyring({ ledger, clock: manualClock(), machineKey, newKey: newApiKey }).accepts(key)).toBe(true);
});

test("the key itself is nowhere in the ledger", () => {
  const { keyring, ledger } = open();
  const { key } = keyring.create("ci");
  const rows = ledger.statement<Record<string, unknown>>("select * from api_keys").all({});
  expect(JSON.stringify(rows)).not.toContain(key.slice(6, -4));
});

test("a deleted key is refused from then on", () => {
  const { keyring, ledger } = open();
  const { key, view } = keyring.create("ci");
  keyring.accepts(key);
  keyring.remove(view.id);
  expect(keyring.accepts(key)).toBe(false);
  keyring.flush();
  expect(open(ledger).keyring.accepts(key)).toBe(false);
  expect(failureOf(() => keyring.remove(view.id)).code).toBe("not_found");
  expect(failureOf(() => keyring.rename(view.id, "x")).code).toBe("not_found");
});

test("the last use of a key is shown at once and written later", () => {
  const { keyring, ledger, clock } = open();
  const { key, view } = keyring.create("ci");
  const lastUsed = (ring: Keyring) => ring.list()[0]?.lastUsedAtMs;
  expect(lastUsed(keyring)).toBe(null);
  clock.advance(5_000);
  keyring.accepts(key);
  expect(lastUsed(keyring)).toBe(6_000);
  expect(lastUsed(open(ledger).keyring)).toBe(null);
  keyring.flush();
  keyring.rename(view.id, "other");
  expect(open(ledger).keyring.list()).toMatchObject([{ name: "other", lastUsedAtMs: 6_000 }]);
});

test("a last use that cannot be written is written by the next flush", () => {
  const { keyring, ledger, clock } = open();
  const { key } = keyring.create("ci");
  clock.advance(5_000);
  keyring.accepts(key);
  vi.spyOn(ledger, "write").mockImplementationOnce(() => {
    throw new Error("the disk is full");
  });
  expect(() => keyring.flush()).toThrow("the disk is full");
  expect(keyring.list()).toMatchObject([{ lastUsedAtMs: 6_000 }]);
  keyring.flush();
  expect(open(ledger).keyring.list()).toMatchObject([{ lastUsedAtMs: 6_000 }]);
});

test("there are at most 100 keys", () => {
  const { keyring } = open();
  for (let n = 0; n < 100; n += 1) keyring.create(`key ${n}`);
  expect(failureOf(() => keyring.create("one more")).code).toBe("failed_precondition");
});
