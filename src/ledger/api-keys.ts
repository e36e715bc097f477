/** API keys besides the host's own. The ledger holds a hash that recognises each key, and never the key itself. */
import type { Ledger } from "./open.ts";

export interface ApiKeyRecord {
  readonly id: string;
  readonly name: string;
  /** Digest of the whole key, in hexadecimal. */
  readonly sha256: string;
  /** The first characters after `e2b_`. The suffix holds the last ones. */
  readonly maskedPrefix: string;
  readonly maskedSuffix: string;
  readonly createdAtMs: number;
  readonly lastUsedAtMs: number | null;
}

/** Adds a key that was never used. The key survives power loss, because its owner is shown it once. */
export function insertApiKey(ledger: Ledger, key: ApiKeyRecord): void {
  ledger.writeDurably(() => {
    ledger
      .statement(
        `insert into api_keys (id, name, sha256, masked_prefix, masked_suffix, created_at_ms, last_used_at_ms)
         values (:id, :name, :sha256, :maskedPrefix, :maskedSuffix, :createdAtMs, :lastUsedAtMs)`,
      )
      .run({ ...key });
  });
}

/** Oldest first. */
export function listApiKeys(ledger: Ledger): ApiKeyRecord[] {
  return ledger
    .statement<ApiKeyRecord>(
      `select id, name, sha256, masked_prefix as maskedPrefix, masked_suffix as maskedSuffix,
         created_at_ms as createdAtMs, last_used_at_ms as lastUsedAtMs
       from api_keys order by created_at_ms, id`,
    )
    .all({});
}

/** @returns whether the key exists */
export function renameApiKey(ledger: Ledger, id: string, name: string): boolean {
  return ledger.write(
    () => ledger.statement("update api_keys set name = :name where id = :id").run({ id, name }).changes > 0,
  );
}

/** Deletes a key durably, because a revoked key must not come to life again. @returns whether the key existed */
export function deleteApiKey(ledger: Ledger, id: string): boolean {
  return ledger.writeDurably(() => ledger.statement("delete from api_keys where id = :id").run({ id }).changes > 0);
}

/** Notes when keys were last used. */
export function recordApiKeyUses(ledger: Ledger, uses: ReadonlyMap<string, number>): void {
  if (uses.size === 0) return;
  ledger.write(() => {
    for (const [id, atMs] of uses) {
      ledger.statement("update api_keys set last_used_at_ms = :atMs where id = :id").run({ id, atMs });
    }
  });
}
