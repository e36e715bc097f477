/** The internet access of a running sandbox is switched in the ledger first, then in its machine. */
import { setSandboxInternetAccess } from "../../ledger/sandboxes.ts";
import type { SandboxContext } from "./context.ts";

export class InternetAccess {
  readonly #context: SandboxContext;

  constructor(context: SandboxContext) {
    this.#context = context;
  }

  /**
   * Gives a running sandbox the internet, or cuts it off together with every open connection, until it is set again.
   * @throws DomainError `not_found`, for a paused sandbox too; `machine_failed`; the access stays as it was
   */
  set(id: string, allowed: boolean): Promise<void> {
    const { deps, registry, queue } = this.#context;
    return queue.runAlways(id, async () => {
      const { record, session } = registry.getRunning(id);
      registry.update(setSandboxInternetAccess(deps.ledger, id, allowed));
      try {
        await session.vm.setInternetAccess(allowed);
      } catch (error) {
        registry.update(setSandboxInternetAccess(deps.ledger, id, record.allowInternetAccess));
        throw error;
      }
      session.log.info({ allowed }, "internet access switched");
    });
  }
}
