/**
 * The network watch notices what happens to the networks of machines behind the back of their guests, and says so in the
 * sandbox's log: a network that broke and was started again, or that is gone.
 */
import type { NetworkHealth } from "../../machine/driver.ts";
import type { SessionOrigin } from "../../types.ts";
import type { Session } from "./session.ts";

/** A session as the network watch sees it. */
type WatchedSession = Session & {
  readonly origin: SessionOrigin;
  readonly vm: { networkHealth(): NetworkHealth | undefined };
};

/** The log of sandboxes. */
interface SandboxNotes {
  note(sandboxId: string, message: string, about: { readonly level: "warn" | "error"; readonly event: string }): void;
}

export class NetworkWatch {
  readonly #logs: SandboxNotes;
  readonly #seen = new WeakMap<Session, NetworkHealth>();

  constructor(logs: SandboxNotes) {
    this.#logs = logs;
  }

  /** Looks at every network. What happened to a machine before it was taken over is not reported. */
  check(sessions: Iterable<WatchedSession>): void {
    for (const session of sessions) {
      const health = session.vm.networkHealth();
      if (health === undefined) continue;
      const begun: NetworkHealth = session.origin === "adopted" ? health : { at: "up", restarts: 0 };
      const before = this.#seen.get(session) ?? begun;
      this.#seen.set(session, health);
      if (health.at === "gone" && before.at !== "gone") this.#reportEnd(session);
      if (health.at === "up" && before.at === "up" && health.restarts !== before.restarts) this.#reportRestart(session);
    }
  }

  #reportRestart({ sandboxId, log }: Session): void {
    log.warn("the network of a sandbox broke and is started again when it is needed");
    const message = "The sandbox's network broke. It is started again when it is needed, and open connections are cut.";
    this.#logs.note(sandboxId, message, { level: "warn", event: "network_restarted" });
  }

  #reportEnd({ sandboxId, log }: Session): void {
    log.error("the network of a sandbox has ended");
    const message = "The sandbox's network has ended. A pause and a resume give the sandbox another.";
    this.#logs.note(sandboxId, message, { level: "error", event: "network_gone" });
  }
}
