/**
 * The reset of a connection: an end that no client takes for the end of an answer. An answer without a length ends with
 * its connection, so an orderly end would make a part of it look whole.
 */
import { Socket } from "node:net";
import type { Duplex } from "node:stream";

/** Ends a connection at once, by a TCP reset where it has one. Bytes that the client has not read may be lost. */
export function resetConnection(connection: Duplex | null): void {
  if (!connection || connection.destroyed) return;
  // A connection that is already ending in order cannot be reset any more, and Node would leak its descriptor.
  if (connection instanceof Socket && !connection.writableEnded) connection.resetAndDestroy();
  else connection.destroy();
}
