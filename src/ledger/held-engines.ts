/** The engines that a state folder is bound to, because what was saved by one engine goes on with that engine alone. */
import { z } from "zod";
import { type EngineName, engineNames } from "../types.ts";
import type { Ledger } from "./open.ts";

/**
 * The engines of the sandboxes that are there and of the templates that people made.
 * @param remade aliases of templates that the daemon makes anew for another engine
 */
export function listHeldEngines(ledger: Ledger, remade: readonly string[]): EngineName[] {
  return ledger
    .statement<{ engine: string }>(
      `select distinct json_extract(s.facts, '$.engine') as engine from snapshots s
       where s.facts is not null and (
         s.id in (select snapshot_id from sandboxes where state <> 'terminated')
         or s.id in (
           select b.snapshot_id from template_builds b where b.template_id not in (
             select template_id from template_aliases where alias in (select value from json_each(:remade)))))
       order by engine`,
    )
    .all({ remade: JSON.stringify(remade) })
    .map(({ engine }) => z.enum(engineNames).parse(engine));
}
