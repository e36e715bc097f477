/** A running sandbox is cut off from the internet, or let out again: the ledger first, then its machine. */
import type { Ledger } from "../../ledger/open.ts";
import { setSandboxInternetAccess } from "../../ledger/sandboxes.ts";
import type { SandboxRegistry } from "./registry.ts";

/** For who is in the sandbox's serial queue. See `Runtime.setSandboxInternetAccess`. */
export async function switchInternetAccess(
  ledger: Ledger,
  registry: SandboxRegistry,
  id: string,
  allowed: boolean,
): Promise<void> {
  const { record, session } = registry.getRunning(id);
  registry.update(setSandboxInternetAccess(ledger, id, allowed));
  try {
    await session.vm.setInternetAccess(allowed);
  } catch (error) {
    registry.update(setSandboxInternetAccess(ledger, id, record.allowInternetAccess));
    throw error;
  }
  session.log.info({ allowed }, "internet access switched");
}
