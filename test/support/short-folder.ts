/**
 * A folder for sockets of a test. Their paths are limited to 103 bytes on macOS, where the system's own temporary
 * folders have names of 49 bytes and more.
 */
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** What is left for the test's names below the folder: `fk-XXXXXX`, `machines`, a session and a socket. */
const maxBytes = 32;

/** The system's folder for temporary files, or /tmp where that has too long a name. */
function shortTmpdir(): string {
  return Buffer.byteLength(tmpdir()) <= maxBytes ? tmpdir() : "/tmp";
}

/** A new folder of this test alone. */
export function newShortFolder(): Promise<string> {
  return mkdtemp(join(shortTmpdir(), "fk-"));
}
