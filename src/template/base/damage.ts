/** Damage of the template `base`: the daemon makes it again by itself, so a client only has to come back. */
import { DomainError } from "../../errors.ts";
import type { Ledger } from "../../ledger/open.ts";
import { getSnapshot, refuseUnreadySnapshot } from "../../ledger/snapshots.ts";
import { findTemplate, type ResolvedTemplate, resolveTemplate } from "../../ledger/templates.ts";
import { baseAlias } from "./template.ts";

/** A boot, a warm-up and a save take a minute under emulation, and seconds without. */
const retryAfterSeconds = 10;

/**
 * Refuses to start from a template whose snapshot is not ready.
 * @throws DomainError `not_ready` when it is `base`, which is being made again; `failed_precondition` with the reason
 *   for any other
 */
export function refuseUnreadyTemplate(ledger: Ledger, { template, snapshot }: ResolvedTemplate): void {
  if (template.aliases.includes(baseAlias) && getSnapshot(ledger, snapshot.id)?.state === "quarantined") {
    const message = `The template '${baseAlias}' was found damaged and is being made again. Try again in a minute.`;
    throw new DomainError("not_ready", message, { snapshotID: snapshot.id, retryAfterSeconds });
  }
  refuseUnreadySnapshot(ledger, snapshot.id);
}

/** Whether sandboxes of `base` are refused, because its snapshot was found damaged. */
export function isBaseDamaged(ledger: Ledger): boolean {
  return findTemplate(ledger, baseAlias) !== undefined && resolveTemplate(ledger, baseAlias).snapshot.state !== "ready";
}
