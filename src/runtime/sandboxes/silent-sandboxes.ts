/**
 * Silent sandboxes: the machine lives, and its guest has not answered for too long or breaks its link again and again.
 * Such a sandbox is paused, not ended, because only a dead machine may cost what is in it.
 */
import type { SandboxContext } from "./context.ts";
import type { SandboxPauses } from "./pause.ts";
import type { SessionTrouble } from "./sessions.ts";

export class SilentSandboxes {
  readonly #context: SandboxContext;
  readonly #pauses: SandboxPauses;

  constructor(context: SandboxContext, pauses: SandboxPauses) {
    this.#context = context;
    this.#pauses = pauses;
    context.sessions.on("unruly", (trouble) => this.giveUp(trouble));
  }

  /**
   * Pauses a sandbox whose guest is of no use, in the background. The machine's death ends the sandbox elsewhere. A
   * sandbox that cannot be paused stays as it is; the caller gives it up again later.
   */
  giveUp({ sandboxId, sessionId, detail }: SessionTrouble): void {
    const { deps, registry, queue } = this.#context;
    const pausing = queue.runAlways(sandboxId, async () => {
      const session = registry.session(sandboxId);
      if (session?.sessionId !== sessionId || !session.vm.isAlive) return;
      const message = `The sandbox is paused, because its guest is of no use and its machine lives: ${detail}`;
      deps.logs.note(sandboxId, message, { level: "error", event: "given_up" });
      session.log.error({ detail }, "a guest is given up; its sandbox is paused");
      await this.#pauses.pauseInQueue(sandboxId, "stopped", true);
    });
    pausing.catch((error) =>
      deps.log.error({ err: error, sandboxID: sandboxId }, "a sandbox whose guest was given up is not paused yet"),
    );
  }
}
