/** What must happen to open connections when their session ends. One listener per session, however many connections. */
import type { Session } from "../../src/runtime/sessions/session.ts";

const bySession = new WeakMap<Session, Set<() => void>>();

/** Calls `onEnd` when the session ends; the returned function takes that back. */
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
