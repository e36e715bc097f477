/**
 * Socket tickets are for browsers, which cannot set headers on a WebSocket. A client with the API key gets a ticket,
 * which opens one connection to one sandbox within a short time. The ticket stands in a URL, the key never does.
 */
import { createHash, randomBytes } from "node:crypto";
import type { Clock } from "../../src/clock.ts";
import { DomainError } from "../../src/errors.ts";

const lifeMs = 30_000;
/** Unused tickets at the same time. A client that asks for more does not use them. */
const maxTickets = 1_000;

export class SocketTickets {
  readonly #clock: Clock;
  /** Unused tickets by digest, in order of issue. */
  readonly #issued = new Map<string, { readonly sandboxId: string; readonly expiresMs: number }>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** @returns the ticket, and its life in milliseconds @throws DomainError `capacity_exhausted` */
  issue(sandboxId: string): { readonly ticket: string; readonly lifeMs: number } {
    this.#forgetExpired();
    if (this.#issued.size >= maxTickets) throw new DomainError("capacity_exhausted", "Too many unused tickets");
    const ticket = randomBytes(24).toString("base64url");
    this.#issued.set(digestOf(ticket), { sandboxId, expiresMs: this.#clock.monotonicMs() + lifeMs });
    return { ticket, lifeMs };
  }

  /** Uses a ticket up. @returns whether it was good for that sandbox */
  redeem(ticket: string, sandboxId: string): boolean {
    this.#forgetExpired();
    const digest = digestOf(ticket);
    const issued = this.#issued.get(digest);
    this.#issued.delete(digest);
    return issued?.sandboxId === sandboxId;
  }

  #forgetExpired(): void {
    const nowMs = this.#clock.monotonicMs();
    for (const [digest, { expiresMs }] of this.#issued) {
      if (expiresMs > nowMs) return;
      this.#issued.delete(digest);
    }
  }
}

/** Tickets are looked up by digest, so that the time of a look-up tells nothing about a ticket. */
function digestOf(ticket: string): string {
  return createHash("sha256").update(ticket).digest("base64");
}
