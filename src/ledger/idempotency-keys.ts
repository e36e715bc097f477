/** Which create had which idempotency key. A key is written down with its sandbox, and forgotten with it. */
import type { Ledger } from "./open.ts";

/** A key, and what it was used for. */
export interface Idempotency {
  readonly key: string;
  /** Of what was asked for, hex. */
  readonly requestSha256: string;
}

export interface IdempotencyRecord extends Idempotency {
  readonly sandboxId: string;
}

/** Within the transaction that writes the sandbox down. The key of a create that failed is taken over. */
export function recordIdempotencyKey(ledger: Ledger, record: IdempotencyRecord): void {
  ledger
    .statement(
      `insert or replace into idempotency_keys (key, request_sha256, sandbox_id)
       values (:key, :requestSha256, :sandboxId)`,
    )
    .run({ ...record });
}

/** The create that had a key, unless it failed. */
export function findIdempotencyKey(ledger: Ledger, key: string): IdempotencyRecord | undefined {
  return ledger
    .statement<IdempotencyRecord>(
      `select k.key, k.request_sha256 as requestSha256, k.sandbox_id as sandboxId
       from idempotency_keys k join sandboxes s on s.id = k.sandbox_id
       where k.key = :key and s.end_reason is not 'create_failed'`,
    )
    .get({ key });
}
