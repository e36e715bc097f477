/**
 * A move takes a row of the ledger from one state to another. Every move is a compare-and-set, so that of two that race
 * one wins and the other learns it. Each table says beside its states which moves are legal. Sandboxes have a function
 * of their own (`sandboxes.ts`), because their reservation goes with them.
 */
import { DomainError } from "../errors.ts";
import type { Ledger, Parameters } from "./open.ts";

/** A table with the columns `id` and `state`, and the states that may follow each one. */
export interface Lifecycle<State extends string> {
  readonly table: "reservations" | "snapshots" | "warm_entries" | "template_build_jobs";
  readonly nextStates: Readonly<Record<State, readonly State[]>>;
}

export interface Move<State extends string> {
  readonly id: string;
  /** The row is in one of these. */
  readonly from: readonly State[];
  /** A state of `from`: the row stays in it, and only its columns change. */
  readonly to: State;
  /** Columns that change with the state; one that is undefined stays. */
  readonly set?: Readonly<Record<string, Parameters[string] | undefined>>;
  /** Constant SQL that must hold as well. */
  readonly when?: string;
}

/**
 * Moves a row, unless it is in another state by now.
 * @returns whether it was moved
 * @throws internal when the table has no such move
 */
export function moveRow<State extends string>(
  ledger: Ledger,
  { table, nextStates }: Lifecycle<State>,
  { id, from, to, set = {}, when = "true" }: Move<State>,
): boolean {
  const illegal = from.find((state) => state !== to && !nextStates[state].includes(to));
  if (illegal) throw new DomainError("internal", `A row of ${table} never goes from ${illegal} to ${to}`, { id });
  const columns = Object.entries(set).flatMap(([name, value]) => (value === undefined ? [] : [[name, value] as const]));
  const assignments = ["state = :to", ...columns.map(([name]) => `${name} = :${name}`)].join(", ");
  return ledger.write(() => {
    const { changes } = ledger
      .statement(
        `update ${table} set ${assignments}
         where id = :id and state in (select value from json_each(:from)) and (${when})`,
      )
      .run({ ...Object.fromEntries(columns), id, to, from: JSON.stringify(from) });
    return changes === 1;
  });
}
