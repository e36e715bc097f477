/**
 * The limit of requests that one sandbox serves at a time. Each holds a connection and, mostly, a stream of the guest
 * link.
 */
import type { Session } from "../../src/runtime/sessions/session.ts";

/** Close to the number of streams that one guest link carries. */
export const maxRequestsPerSandbox = 1_000;

const active = new WeakMap<Session, number>();

/** Counts a request until the returned function is called once. Undefined when there are too many already. */
export function countRequest(session: Session): (() => void) | undefined {
  const count = active.get(session) ?? 0;
  if (count >= maxRequestsPerSandbox) return undefined;
  active.set(session, count + 1);
  return () => active.set(session, (active.get(session) ?? 1) - 1);
}

/** The answer to a request over the limit. */
export function tooManyRequests(sandboxId: string) {
  const message = `The sandbox serves ${maxRequestsPerSandbox} requests already. Try again in a moment.`;
  return { sandboxId, message, connectionLimit: maxRequestsPerSandbox, code: 429 };
}
