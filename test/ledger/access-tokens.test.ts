import { expect, test } from "vitest";
import { deriveAccessToken } from "../../src/e2b/access-token.ts";
import { digestOfToken, getAccessToken, insertAccessToken, keepDerivedTokens } from "../../src/ledger/access-tokens.ts";
import { purgeEnded } from "../../src/ledger/history.ts";
import { openLedger } from "../../src/ledger/open.ts";
import { moveSandbox } from "../../src/ledger/sandboxes.ts";
import { getSetting, setSetting } from "../../src/ledger/settings.ts";
import { addReadySnapshot, addSandbox, failureOf, memoryLedger, temporaryPath } from "./support.ts";

test("sandboxes of an earlier version keep the tokens that their clients know, also after another start", () => {
  const path = temporaryPath();
  {
    using before = openLedger(path);
    setSetting(before, "machine_secret", "secret");
    addReadySnapshot(before);
    addSandbox(before, "iaa1");
    addSandbox(before, "iaa2");
    addSandbox(before, "iaa3");
    moveSandbox(before, "iaa3", "creating", "terminated", { endReason: "create_failed", endAtMs: 1 });
    // A daemon that died between the two steps of a sandbox's creation cannot leave this, but a later version may.
    insertAccessToken(before, "iaa2", "random");
  }
  for (let start = 0; start < 2; start += 1) {
    using ledger = openLedger(path);
    keepDerivedTokens(ledger, deriveAccessToken);
    expect(getAccessToken(ledger, "iaa1")).toBe(deriveAccessToken("secret", "iaa1"));
    expect(getAccessToken(ledger, "iaa2")).toBe("random");
    expect(failureOf(() => getAccessToken(ledger, "iaa3")).code).toBe("internal");
    // Nothing is left of which all tokens could be derived.
    expect(getSetting(ledger, "machine_secret")).toBeUndefined();
  }
});

test("a token is written once, belongs to one sandbox, and goes when its sandbox is forgotten", () => {
  const ledger = memoryLedger();
  addReadySnapshot(ledger);
  addSandbox(ledger, "iaa1");
  insertAccessToken(ledger, "iaa1", "one");
  expect(failureOf(() => insertAccessToken(ledger, "iaa1", "two")).code).toBe("already_exists");
  expect(failureOf(() => insertAccessToken(ledger, "iaa2", "one")).code).toBe("already_exists");
  expect(getAccessToken(ledger, "iaa1")).toBe("one");
  expect(ledger.statement<{ sha256: string }>("select sha256 from access_tokens").all({})).toEqual([
    { sha256: digestOfToken("one") },
  ]);
  purgeEnded(ledger, { endedBeforeMs: 0, keep: 10 });
  expect(getAccessToken(ledger, "iaa1")).toBe("one");
  moveSandbox(ledger, "iaa1", "creating", "terminated", { endReason: "create_failed", endAtMs: 1 });
  purgeEnded(ledger, { endedBeforeMs: 0, keep: 10 });
  expect(ledger.statement("select * from access_tokens").all({})).toEqual([]);
});
