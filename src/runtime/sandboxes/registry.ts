/**
 * The registry holds the sandboxes that clients can see, in memory: a read model of the ledger, so that listing and
 * routing need no query. A sandbox is *listed* from running until it leaves, and *routable* while it has a session.
 */
import { DomainError } from "../../errors.ts";
import { digestOfToken } from "../../ledger/access-tokens.ts";
import type { Ledger } from "../../ledger/open.ts";
import type { SandboxRecord } from "../../types.ts";
import type { ListSandboxesPage, ListSandboxesQuery, SandboxView } from "../contract.ts";
import type { LiveSession } from "../sessions/live-session.ts";
import type { Session } from "../sessions/session.ts";
import { keptMemory } from "./kept-memory.ts";

interface ListedSandbox {
  view: SandboxView;
  session: LiveSession | undefined;
}

/** The live sessions in the registry, as routes see them. */
export interface SessionDirectory {
  /** @returns undefined when the sandbox is unknown, paused or ending */
  session(id: string): Session | undefined;
  sessionByAccessToken(accessToken: string): Session | undefined;
  sessions(): Iterable<Session>;
}

/** The registry as routes see it. */
export interface SandboxDirectory extends SessionDirectory, Pick<SandboxRegistry, "get" | "list"> {}

export class SandboxRegistry implements SandboxDirectory {
  readonly #ledger: Ledger;
  readonly #onShown: (view: SandboxView) => void;
  readonly #byId = new Map<string, ListedSandbox>();
  /** By digest, because the time of a look-up must say nothing about the token. */
  readonly #byTokenDigest = new Map<string, ListedSandbox>();
  /** Ascending by start time, then id: the order of paging. */
  readonly #ordered: ListedSandbox[] = [];

  /** @param onShown called with every view that clients get from now on */
  constructor(ledger: Ledger, onShown: (view: SandboxView) => void) {
    this.#ledger = ledger;
    this.#onShown = onShown;
  }

  count(state: SandboxView["state"]): number {
    return this.#ordered.filter(({ view }) => view.state === state).length;
  }

  /** How many running sandboxes wait for room on the host's disk. */
  get waitingForDisk(): number {
    return this.#ordered.filter(({ session }) => session?.waitsForDisk).length;
  }

  add(record: SandboxRecord, accessToken: string, session: LiveSession | undefined): SandboxView {
    const listed: ListedSandbox = { view: this.#show(record, accessToken, session), session };
    this.#byId.set(record.id, listed);
    this.#byTokenDigest.set(digestOfToken(accessToken), listed);
    let at = this.#ordered.length;
    while (at > 0 && comparePosition(this.#ordered[at - 1]?.view.record, record) > 0) at -= 1;
    this.#ordered.splice(at, 0, listed);
    return listed.view;
  }

  /** Replaces the record of a listed sandbox after the ledger changed. Its start time must be the same. */
  update(record: SandboxRecord): SandboxView | undefined {
    const listed = this.#byId.get(record.id);
    if (listed) listed.view = this.#show(record, listed.view.accessToken, listed.session);
    return listed?.view;
  }

  /** As {@link update}, and gives the sandbox a session; undefined takes its session away. */
  change(record: SandboxRecord, session: LiveSession | undefined): SandboxView | undefined {
    const listed = this.#byId.get(record.id);
    if (listed) listed.session = session;
    return this.update(record);
  }

  /** Brings the view of a sandbox up to date whose session has changed, and its record has not. */
  refresh(id: string): void {
    const listed = this.#byId.get(id);
    if (listed) listed.view = this.#viewOf(listed.view.record, listed.view.accessToken, listed.session);
  }

  remove(id: string): void {
    const listed = this.#byId.get(id);
    if (!listed) return;
    this.#byId.delete(id);
    this.#byTokenDigest.delete(digestOfToken(listed.view.accessToken));
    this.#ordered.splice(this.#ordered.indexOf(listed), 1);
  }

  view(id: string): SandboxView | undefined {
    return this.#byId.get(id)?.view;
  }

  /** @throws DomainError `not_found` with E2B's message. */
  get(id: string): SandboxView {
    const view = this.view(id);
    if (view) return view;
    throw new DomainError("not_found", `Sandbox "${id}" doesn't exist or you don't have access to it`);
  }

  /**
   * @throws DomainError `not_found`, for a paused sandbox too; `not_ready` while its machine, which an earlier daemon
   *   started, does not answer
   */
  getRunning(id: string): { readonly record: SandboxRecord; readonly session: LiveSession } {
    const { record, state } = this.get(id);
    if (state === "paused") throw new DomainError("not_found", `Sandbox "${id}" is paused`);
    const session = this.session(id);
    if (!session)
      throw new DomainError("not_ready", `The machine of sandbox "${id}" does not answer yet. Try again later.`);
    return { record, session };
  }

  session(id: string): LiveSession | undefined {
    return this.#byId.get(id)?.session;
  }

  sessionByAccessToken(accessToken: string): LiveSession | undefined {
    return this.#byTokenDigest.get(digestOfToken(accessToken))?.session;
  }

  *sessions(): IterableIterator<LiveSession> {
    for (const { session } of this.#ordered) if (session) yield session;
  }

  *views(): IterableIterator<SandboxView> {
    for (const { view } of this.#ordered) yield view;
  }

  list(query: ListSandboxesQuery): ListSandboxesPage {
    const wanted = Object.entries(query.metadata);
    const sandboxes: SandboxView[] = [];
    let totalRunning = 0;
    let more = false;
    for (const { view } of inOrder(this.#ordered, query.order)) {
      if (!matches(view, query, wanted)) continue;
      if (view.state === "running") totalRunning += 1;
      if (query.after && !isPast(view.record, query.after, query.order)) continue;
      if (sandboxes.length < query.limit) sandboxes.push(view);
      else more = true;
    }
    const last = sandboxes.at(-1)?.record;
    return { sandboxes, next: more && last ? { startedAtMs: last.startedAtMs, id: last.id } : undefined, totalRunning };
  }

  #show(record: SandboxRecord, accessToken: string, session: LiveSession | undefined): SandboxView {
    const view = this.#viewOf(record, accessToken, session);
    this.#onShown(view);
    return view;
  }

  #viewOf(record: SandboxRecord, accessToken: string, session: LiveSession | undefined): SandboxView {
    const kept = keptMemory(this.#ledger, record);
    return {
      record,
      state: record.state === "running" ? "running" : "paused",
      accessToken,
      ...(kept !== undefined && { keptMemory: kept }),
      ...(session?.waitsForDisk && { waitsForDisk: true as const }),
    };
  }
}

type Position = { readonly startedAtMs: number; readonly id: string };

function comparePosition(a: Position | undefined, b: Position): number {
  if (!a) return -1;
  if (a.startedAtMs !== b.startedAtMs) return a.startedAtMs - b.startedAtMs;
  return a.id < b.id ? -1 : a.id > b.id ? 1 : 0;
}

function isPast(record: Position, after: Position, order: "asc" | "desc"): boolean {
  const difference = comparePosition(record, after);
  return order === "asc" ? difference > 0 : difference < 0;
}

function* inOrder(ordered: readonly ListedSandbox[], order: "asc" | "desc"): IterableIterator<ListedSandbox> {
  if (order === "asc") return yield* ordered;
  for (let at = ordered.length - 1; at >= 0; at -= 1) {
    const listed = ordered[at];
    if (listed) yield listed;
  }
}

function matches(
  view: SandboxView,
  query: ListSandboxesQuery,
  wanted: readonly (readonly [string, string])[],
): boolean {
  if (!query.states.has(view.state)) return false;
  if (query.templateId !== undefined && view.record.templateId !== query.templateId) return false;
  if (query.startedAfterMs !== undefined && view.record.startedAtMs < query.startedAfterMs) return false;
  return wanted.every(([key, value]) => view.record.metadata[key] === value);
}
