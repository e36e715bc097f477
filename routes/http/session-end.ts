/**
 * The end of a session closes its open connections. There is one listener per session, whatever the number of its
 * connections, because Node warns about an event with many listeners.
 */
import type { Session } from "../../src/runtime/sessions/session.ts";

const bySession = new WeakMap<Session, Set<() => void>>();

/** Calls `onEnd` when the session ends. The returned function cancels that. */
export function whenSessionEnds(session: Session, onEnd: () => void): () => void {
  const waiting = bySession.get(session) ?? listen(session);
  waiting.add(onEnd);
  return () => waiting.delete(onEnd);
}

function listen(session: Session): Set<() => void> {
  const waiting = new Set<() => void>();
  bySession.set(session, waiting);
  const onAbort = () => {
    for (const onEnd of waiting) onEnd();
    waiting.clear();
  };
  session.ended.addEventListener("abort", onAbort, { once: true });
  return waiting;
}
