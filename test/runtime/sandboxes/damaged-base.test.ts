/** Tests of a damaged template `base`, which the daemon makes again by itself, over the fake engine. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { releaseSnapshot } from "../../../src/ledger/snapshots.ts";
import { isBaseDamaged } from "../../../src/template/base/damage.ts";
import { BaseUpkeep } from "../../../src/template/base/upkeep.ts";
import { FakeDaemon } from "../../support/fakes/fake-daemon.ts";

const never = new AbortController().signal;
const damage = ({ deps }: FakeDaemon, alias: string) => writeFile(join(deps.snapshotsFolder, alias, "memory"), "short");
const madeAgain = { code: "not_ready", message: expect.stringContaining("being made again") };

test("a create that finds base damaged, and those after it, are told to come back; of others by name", async () => {
  await using daemon = await FakeDaemon.open();
  await daemon.addTemplate("mine");
  await damage(daemon, "base");
  await damage(daemon, "mine");
  expect(isBaseDamaged(daemon.ledger)).toBe(false);
  await expect(daemon.create()).rejects.toMatchObject(madeAgain);
  expect(isBaseDamaged(daemon.ledger)).toBe(true);
  await expect(daemon.create()).rejects.toMatchObject({ ...madeAgain, details: { retryAfterSeconds: 10 } });
  for (let n = 0; n < 2; n++) {
    await expect(daemon.create("mine")).rejects.toMatchObject({
      code: "failed_precondition",
      message: expect.stringContaining("mine-snapshot"),
    });
  }
  await daemon.settle();
  expect(daemon.held().active).toBe(0);
});

test("a damaged base is made again at once, and after failures with pauses", async () => {
  await using daemon = await FakeDaemon.open({ retriesByHand: true });
  const { ledger, clock, deps } = daemon;
  let calls = 0;
  let failures = 0;
  const ensure = async () => {
    calls += 1;
    if (failures-- > 0) throw new Error("arranged by the test");
    if (!isBaseDamaged(ledger)) return;
    await writeFile(join(deps.snapshotsFolder, "base", "memory"), "fake memory");
    releaseSnapshot(ledger, "base-snapshot");
  };
  const upkeep = new BaseUpkeep({ ledger, clock, ensure });
  const seconds = async (count: number) => {
    for (let n = 0; n < count; n++) {
      await clock.advance(1_000);
      await upkeep.tick(never).catch(() => {});
    }
    return calls;
  };
  expect(await seconds(59)).toBe(1);
  expect(await seconds(60)).toBe(2);
  await damage(daemon, "base");
  await expect(daemon.create()).rejects.toMatchObject(madeAgain);
  failures = 3;
  expect(await seconds(1)).toBe(3);
  expect(await seconds(6)).toBe(5);
  expect(await seconds(1)).toBe(6);
  expect(isBaseDamaged(ledger)).toBe(false);
  await daemon.create();
});
