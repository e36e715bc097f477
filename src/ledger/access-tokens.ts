/**
 * The access tokens of sandboxes. A token is written with its sandbox and never changes, so that a sandbox has the same
 * token after a pause, a resume, a restart of the daemon, and on another machine that has its snapshot.
 */
import { createHash } from "node:crypto";
import { DomainError } from "../errors.ts";
import type { Ledger } from "./open.ts";
import { listSandboxes } from "./sandboxes.ts";
import { getSetting } from "./settings.ts";

/** Of this setting the tokens of earlier versions were derived. */
const earlierSecret = "machine_secret";

/**
 * Writes the token of a sandbox. Call it in the `ledger.write` that adds the sandbox.
 * @throws DomainError `already_exists` when the sandbox has a token, or another sandbox has this one
 */
export function insertAccessToken(ledger: Ledger, sandboxId: string, token: string): void {
  ledger.write(() => {
    const { changes } = ledger
      .statement(
        `insert into access_tokens (sandbox_id, token, sha256) values (:sandboxId, :token, :sha256)
         on conflict do nothing`,
      )
      .run({ sandboxId, token, sha256: digestOfToken(token) });
    if (changes !== 1) throw new DomainError("already_exists", `Sandbox ${sandboxId} has an access token already`);
  });
}

/** @throws DomainError `internal` when the sandbox has none */
export function getAccessToken(ledger: Ledger, sandboxId: string): string {
  const row = ledger
    .statement<{ token: string }>("select token from access_tokens where sandbox_id = :sandboxId")
    .get({ sandboxId });
  if (row) return row.token;
  throw new DomainError("internal", `Sandbox ${sandboxId} has no access token in the ledger`, { id: sandboxId });
}

/** By this digest a token is looked up, because the time of a look-up must say nothing about the token. */
export function digestOfToken(token: string): string {
  return createHash("sha256").update(token).digest("hex");
}

/**
 * Gives the sandboxes of an earlier version the tokens that their clients know, and forgets the secret that they were
 * derived from. Idempotent.
 */
export function keepDerivedTokens(ledger: Ledger, derive: (secret: string, sandboxId: string) => string): void {
  const secret = getSetting(ledger, earlierSecret);
  if (secret === undefined) return;
  const known = ledger.statement<{ id: string }>("select sandbox_id as id from access_tokens where sandbox_id = :id");
  ledger.writeDurably(() => {
    for (const { id } of listSandboxes(ledger)) {
      if (!known.get({ id })) insertAccessToken(ledger, id, derive(secret, id));
    }
    ledger.statement("delete from settings where key = :key").run({ key: earlierSecret });
  });
}
