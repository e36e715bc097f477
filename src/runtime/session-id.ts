/** The name of one machine. */
import { randomUUID } from "node:crypto";

/** New for every machine, never reused; short, because it is part of socket paths. */
export function newSessionId(): string {
  return randomUUID().replaceAll("-", "");
}
