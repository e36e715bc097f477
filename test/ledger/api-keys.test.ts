import { expect, test } from "vitest";
import {
  type ApiKeyRecord,
  deleteApiKey,
  insertApiKey,
  listApiKeys,
  recordApiKeyUses,
  renameApiKey,
} from "../../src/ledger/api-keys.ts";
import { memoryLedger } from "./support.ts";

function key(id: string, createdAtMs: number): ApiKeyRecord {
  const mask = { maskedPrefix: "ab", maskedSuffix: "cdef" };
  return { id, name: `key ${id}`, sha256: `sha-${id}`, ...mask, createdAtMs, lastUsedAtMs: null };
}

test("keys are kept, renamed, dated and deleted", () => {
  const ledger = memoryLedger();
  insertApiKey(ledger, key("b", 2));
  insertApiKey(ledger, key("a", 1));
  expect(listApiKeys(ledger)).toEqual([key("a", 1), key("b", 2)]);
  expect(renameApiKey(ledger, "a", "other")).toBe(true);
  recordApiKeyUses(
    ledger,
    new Map([
      ["a", 7],
      ["gone", 8],
    ]),
  );
  expect(listApiKeys(ledger)[0]).toEqual({ ...key("a", 1), name: "other", lastUsedAtMs: 7 });
  expect(deleteApiKey(ledger, "a")).toBe(true);
  expect(deleteApiKey(ledger, "a")).toBe(false);
  expect(renameApiKey(ledger, "a", "again")).toBe(false);
  expect(listApiKeys(ledger)).toEqual([key("b", 2)]);
});

test("no two keys have the same hash", () => {
  const ledger = memoryLedger();
  insertApiKey(ledger, key("a", 1));
  expect(() => insertApiKey(ledger, { ...key("b", 1), sha256: "sha-a" })).toThrow(/UNIQUE/);
});
