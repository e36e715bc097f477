/** Connections to ports inside a sandbox: so many at a time, and with patience for a service that is just starting. */
import type { Duplex } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import { isDomainError } from "../../src/errors.ts";
import type { Session } from "../../src/runtime/sessions/session.ts";
import { type PortRefusal, portClosed, tooManyConnections } from "./port-pages.ts";

/** Of the 1,024 streams of a guest link: commands and files need some too, whoever floods a public port. */
const maxConnections = 768;
/** After each refusal of the service's port; the last one counts (reference 3.4). */
const retryAfterMs = [100, 200, 300, 400];

const openConnections = new WeakMap<Session, number>();

/**
 * Connects to a port of the sandbox.
 * @param gone the client has left: nobody waits for the port any more
 * @returns why not, when it cannot
 * @throws DomainError what the session's link throws
 */
export async function dialPort(
  session: Session,
  port: number,
  gone: AbortSignal,
): Promise<{ readonly connection: Duplex } | { readonly refusal: PortRefusal }> {
  const open = openConnections.get(session) ?? 0;
  if (open >= maxConnections) return { refusal: tooManyConnections(session.sandboxId, maxConnections) };
  openConnections.set(session, open + 1);
  const release = () => openConnections.set(session, (openConnections.get(session) ?? 1) - 1);
  try {
    const connection = await dialPatiently(session, port, gone);
    if (connection) {
      connection.once("close", release);
      return { connection };
    }
  } catch (error) {
    release();
    throw error;
  }
  release();
  return { refusal: portClosed(session.sandboxId, port) };
}

/** Undefined when nothing listens on the port, or nobody wants it any more. */
async function dialPatiently(session: Session, port: number, gone: AbortSignal): Promise<Duplex | undefined> {
  for (const waitMs of [0, ...retryAfterMs]) {
    if (waitMs > 0) await delay(waitMs, undefined, { signal: gone }).catch(() => {});
    if (gone.aborted || session.ended.aborted) return undefined;
    try {
      return await session.agent.dial(port, gone);
    } catch (error) {
      if (!gone.aborted && !isDomainError(error, "not_found")) throw error;
    }
  }
  return undefined;
}
