/**
 * The guest link of a session is made anew whenever it breaks, for as long as the session lives. A guest that does not
 * answer is no dead machine: whether its silence lasts too long is for the heartbeats to judge.
 */
import type { Clock } from "../../clock.ts";
import { DomainError } from "../../errors.ts";
import type { GuestAgent } from "../../guest/agent.ts";
import { openGuestAgent } from "../../guest-machine/agent.ts";
import type { Logger } from "../../log.ts";
import type { Vm } from "../../machine/driver.ts";
import { setGuestClock } from "../machines/identity.ts";

/** A link that lived shorter than this counts as short. */
const shortLinkMs = 10_000;
const maxShortLinks = 8;
/** The pause before a reconnect grows by this for each short link in a row, and for each try that failed. */
const reconnectPauseMs = 250;
const longestPauseMs = 10_000;

/** The link is up, being made, or gone with the session. */
type State =
  | { readonly at: "up"; readonly agent: GuestAgent }
  | { readonly at: "connecting" }
  | { readonly at: "ended"; readonly reason: DomainError };

export interface SessionLinkOptions {
  readonly vm: Vm;
  /** Undefined: the agent has not answered yet, and the link is to be made. */
  readonly agent: GuestAgent | undefined;
  /** The boot id that the guest must have; undefined when nobody knows, until the agent says it. */
  readonly bootId: string | undefined;
  readonly clock: Clock;
  readonly log: Logger;
  /** Called when the guest has booted anew, so that what was in its memory is gone. */
  readonly onBootedAnew: (detail: string) => void;
  /** Called when the link has broken again and again. The link is still made anew, with long pauses. */
  readonly onUnruly: (detail: string) => void;
}

/** Says that a guest has booted since its boot id was `expected`; undefined when it has not, or nobody knows. */
export function describeReboot(
  expected: string | undefined,
  { bootId }: Pick<GuestAgent, "bootId">,
): string | undefined {
  if (expected === undefined || expected === bootId) return undefined;
  return `the guest has booted anew: its boot id is ${bootId} and was ${expected}`;
}

export class SessionLink {
  readonly #options: SessionLinkOptions;
  readonly #ended = new AbortController();
  #state: State = { at: "connecting" };
  #bootId: string | undefined;
  /** Links in a row that broke soon after they were made. */
  #shortLinks = 0;

  constructor(options: SessionLinkOptions) {
    this.#options = options;
    this.#bootId = options.bootId ?? options.agent?.bootId;
    if (options.agent) this.#use(options.agent);
    else void this.#connect();
  }

  /** @throws DomainError `not_ready` while the link is being made; the reason of the session's end */
  get agent(): GuestAgent {
    if (this.#state.at === "up") return this.#state.agent;
    if (this.#state.at === "ended") throw this.#state.reason;
    throw new DomainError("not_ready", "The link to the sandbox is being re-established. Try again in a moment.");
  }

  /** @throws DomainError `not_ready` when the agent has not answered yet and nobody knows */
  get bootId(): string {
    return this.#bootId ?? this.agent.bootId;
  }

  /** Aborts with the reason of the session's end, before the link is closed. */
  get ended(): AbortSignal {
    return this.#ended.signal;
  }

  /** How many bytes came over the link that is up; undefined while none is. */
  get receivedBytes(): number | undefined {
    return this.#state.at === "up" ? this.#state.agent.receivedBytes : undefined;
  }

  end(reason: DomainError): void {
    if (this.#state.at === "ended") return;
    const state = this.#state;
    this.#state = { at: "ended", reason };
    this.#ended.abort(reason);
    if (state.at === "up") state.agent.close();
  }

  #use(agent: GuestAgent): void {
    const { clock, log, onUnruly } = this.#options;
    this.#state = { at: "up", agent };
    this.#bootId ??= agent.bootId;
    const openedMs = clock.monotonicMs();
    void agent.closed.then((reason) => {
      if (this.#state.at !== "up" || this.#state.agent !== agent) return;
      this.#state = { at: "connecting" };
      log.warn({ err: reason }, "guest link broke; reconnecting");
      this.#shortLinks = clock.monotonicMs() - openedMs < shortLinkMs ? this.#shortLinks + 1 : 0;
      if (this.#shortLinks > 0 && this.#shortLinks % maxShortLinks === 0) {
        onUnruly("the guest link breaks again and again");
      }
      void this.#connect();
    });
  }

  /** Tries until the agent answers, or the session ends. A guest that keeps breaking its link must not keep us busy. */
  async #connect(): Promise<void> {
    const { vm, clock, log, onBootedAnew } = this.#options;
    const { signal } = this.#ended;
    for (let failures = 0; ; failures++) {
      const pauseMs = Math.min((this.#shortLinks + failures) * reconnectPauseMs, longestPauseMs);
      if (pauseMs > 0) await clock.sleep(pauseMs, signal).catch(() => {});
      if (signal.aborted) return;
      let agent: GuestAgent;
      try {
        agent = await openGuestAgent(vm, { clock, log, signal });
      } catch (error) {
        if (!signal.aborted) log.warn({ err: error }, "the guest's agent does not answer; trying again");
        continue;
      }
      if (signal.aborted) return agent.close();
      const reboot = describeReboot(this.#bootId, agent);
      if (reboot !== undefined) {
        agent.close();
        return onBootedAnew(reboot);
      }
      this.#use(agent);
      log.info("guest link re-established");
      if (this.#options.agent === undefined) this.#giveTime(agent);
      return;
    }
  }

  /** A guest that did not answer when its session began may have stood still for a while. */
  #giveTime(agent: GuestAgent): void {
    const { clock, log } = this.#options;
    setGuestClock(agent, clock).catch((error) => log.warn({ err: error }, "the guest could not be given the time"));
  }
}
