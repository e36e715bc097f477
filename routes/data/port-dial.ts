/** Connections to ports inside a sandbox: limited in number, with retries for a service that is just starting. */
import type { Duplex } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import { isDomainError } from "../../src/errors.ts";
import type { Session } from "../../src/runtime/sessions/session.ts";
import { type PortRefusal, portClosed, tooManyConnections } from "./port-pages.ts";

/** Below the 1,024 streams of a guest link, so that a flood of a public port leaves some for commands and files. */
const maxConnections = 768;
/**
 * The pause after each refusal of the port. The refusal after the last pause is the answer
 * (docs/compatibility.md#ports).
 */
const retryAfterMs = [100, 200, 300, 400];

const openConnections = new WeakMap<Session, number>();

/**
 * Connects to a port of the sandbox.
 * @param gone aborted when the client has left
 * @returns the connection, or the refusal that the client gets
 * @throws DomainError every error of the session's link
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

/** Undefined when no service listens on the port, or the client has left. */
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
