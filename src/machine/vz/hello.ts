/** What a helper without a machine says of this host: its greeting. */
import { constants } from "node:fs";
import { access, mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { DomainError } from "../../errors.ts";
import { Scope } from "../../scope.ts";
import type { Ability } from "../driver.ts";
import { removeRemains } from "../remains.ts";
import type { Capability, Hello } from "./helper-messages.ts";
import { startHelper } from "./helper-process.ts";

/** For the start of a helper and its greeting. */
export const helperDeadlineMs = 5000;

export interface HelperPlace {
  /** The executable of the helper. */
  readonly helper: string;
  readonly machinesFolder: string;
}

/** The greeting of a helper without a machine, which describes the host. */
export async function askHelper({ helper, machinesFolder }: HelperPlace): Promise<Hello> {
  await access(helper, constants.X_OK).catch((error: unknown) => {
    const problem = `there is no helper at ${helper}. Build it: scripts/setup/build-helper`;
    throw new DomainError("failed_precondition", problem, {}, { cause: error });
  });
  const folder = await mkdtemp(join(machinesFolder, "hello-"));
  const scope = new Scope();
  scope.defer(() => rm(folder, { recursive: true, force: true }));
  try {
    const { client, process } = await startHelper(helper, folder, { deadlineMs: helperDeadlineMs });
    const record = { engine: "vz", sessionId: "hello", folder, processes: [process.identity] } as const;
    scope.defer(() => removeRemains(record, 0));
    scope.defer(() => client.close());
    return client.hello;
  } finally {
    await scope.close();
  }
}

/** A helper that does not name an ability does not have it. */
export function toAbility(capability: Capability | undefined): Ability {
  if (capability?.supported) return { supported: true };
  return { supported: false, reason: capability?.reason ?? "the helper does not say" };
}
