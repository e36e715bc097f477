/**
 * Creates that a client sends again because it never saw the answer: the same key and the same request are the same
 * sandbox, however often they come, also after a restart of the daemon.
 */
import { createHash } from "node:crypto";
import { DomainError } from "../errors.ts";
import { findIdempotencyKey } from "../ledger/idempotency-keys.ts";
import type { Ledger } from "../ledger/open.ts";
import type { CreateSandboxRequest, SandboxView } from "./runtime.ts";

/** A key, and what it was used for. */
export interface Idempotency {
  readonly key: string;
  readonly requestSha256: string;
}

/** What of a request makes it another one. */
export function idempotencyOf(key: string, request: CreateSandboxRequest): Idempotency {
  return { key, requestSha256: createHash("sha256").update(JSON.stringify(request)).digest("hex") };
}

export class IdempotentCreates {
  readonly #ledger: Ledger;
  readonly #underWay = new Map<string, { readonly requestSha256: string; readonly view: Promise<SandboxView> }>();

  constructor(ledger: Ledger) {
    this.#ledger = ledger;
  }

  /**
   * Creates, or gives what an earlier create with that key made.
   * @param find the sandbox as it is now; undefined when it has ended
   * @throws idempotency_mismatch: the key had another request; already_exists: its sandbox has ended; what `create` throws
   */
  async run(
    { key, requestSha256 }: Idempotency,
    create: () => Promise<SandboxView>,
    find: (sandboxId: string) => SandboxView | undefined,
  ): Promise<SandboxView> {
    const earlier = this.#underWay.get(key) ?? findIdempotencyKey(this.#ledger, key);
    if (earlier && earlier.requestSha256 !== requestSha256) {
      throw new DomainError("idempotency_mismatch", `The idempotency key '${key}' was used for another request`);
    }
    if (earlier && "view" in earlier) return earlier.view;
    if (!earlier) return this.#create(key, requestSha256, create);
    const view = find(earlier.sandboxId);
    if (view) return view;
    throw new DomainError("already_exists", `The sandbox of the idempotency key '${key}' has ended`);
  }

  async #create(key: string, requestSha256: string, create: () => Promise<SandboxView>): Promise<SandboxView> {
    const view = create();
    this.#underWay.set(key, { requestSha256, view });
    try {
      return await view;
    } finally {
      this.#underWay.delete(key);
    }
  }
}
