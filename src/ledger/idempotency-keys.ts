/** The idempotency keys of creates. A key is written down with its sandbox, and forgotten with it. */
import type { Ledger } from "./open.ts";

/** A key, and the request it was used for. */
export interface Idempotency {
  readonly key: string;
  /** Digest of the request, in hexadecimal. */
  readonly requestSha256: string;
}

export interface IdempotencyRecord extends Idempotency {
  readonly sandboxId: string;
}

/**
 * Writes a key down. Call it in the transaction that inserts the sandbox. The key of a create that failed may be used
 * again.
 */
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
