/** Settings are small facts about this installation that must not change once known: secrets, node tag, abilities. */
import type { Ledger } from "./open.ts";

export function getSetting(ledger: Ledger, key: string): string | undefined {
  return ledger.statement<{ value: string }>("select value from settings where key = :key").get({ key })?.value;
}

export function setSetting(ledger: Ledger, key: string, value: string): void {
  ledger.writeDurably(() => {
    ledger
      .statement("insert into settings (key, value) values (:key, :value) on conflict do update set value = :value")
      .run({ key, value });
  });
}

/** The setting, which is made and kept if there is none yet. Every caller gets the same value, every time. */
export function getOrMakeSetting(ledger: Ledger, key: string, make: () => string): string {
  const known = getSetting(ledger, key);
  if (known !== undefined) return known;
  return ledger.writeDurably(() => {
    const value = getSetting(ledger, key) ?? make();
    ledger
      .statement("insert into settings (key, value) values (:key, :value) on conflict do nothing")
      .run({ key, value });
    return value;
  });
}
