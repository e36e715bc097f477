/**
 * Creates that a client sends again because it never saw the answer: the same key and the same request are the same
 * sandbox, however often they come, also after a restart of the daemon.
 */
import { createHash } from "node:crypto";
import { DomainError } from "../../errors.ts";
import { findIdempotencyKey, type Idempotency } from "../../ledger/idempotency-keys.ts";
import type { Ledger } from "../../ledger/open.ts";
import type { CreateOptions, CreateSandboxRequest, SandboxView } from "../runtime.ts";
import type { SandboxCreation } from "./create.ts";
import type { SandboxRegistry } from "./registry.ts";

/** What of a request makes it another one. */
function idempotencyOf(key: string, request: CreateSandboxRequest): Idempotency {
  return { key, requestSha256: createHash("sha256").update(JSON.stringify(request)).digest("hex") };
}

export class IdempotentCreates {
  readonly #ledger: Ledger;
  readonly #registry: SandboxRegistry;
  readonly #creation: SandboxCreation;
  readonly #underWay = new Map<string, { readonly requestSha256: string; readonly view: Promise<SandboxView> }>();

  constructor(ledger: Ledger, registry: SandboxRegistry, creation: SandboxCreation) {
    this.#ledger = ledger;
    this.#registry = registry;
    this.#creation = creation;
  }

  /**
   * Creates, or gives what an earlier create with that key made. One with a key is not given up when its client leaves:
   * that may come back for it.
   * @throws idempotency_mismatch: the key had another request; already_exists: its sandbox has ended; what a create throws
   */
  async create(request: CreateSandboxRequest, { idempotencyKey: key, signal }: CreateOptions): Promise<SandboxView> {
    if (key === undefined) return this.#creation.create(request, { signal });
    const idempotency = idempotencyOf(key, request);
    const { requestSha256 } = idempotency;
    const earlier = this.#underWay.get(key) ?? findIdempotencyKey(this.#ledger, key);
    if (earlier && earlier.requestSha256 !== requestSha256) {
      throw new DomainError("idempotency_mismatch", `The idempotency key '${key}' was used for another request`);
    }
    if (earlier && "view" in earlier) return earlier.view;
    if (!earlier) return this.#create(request, idempotency);
    const view = this.#registry.view(earlier.sandboxId);
    if (view) return view;
    throw new DomainError("already_exists", `The sandbox of the idempotency key '${key}' has ended`);
  }

  async #create(request: CreateSandboxRequest, idempotency: Idempotency): Promise<SandboxView> {
    const { key, requestSha256 } = idempotency;
    const view = this.#creation.create(request, { idempotency });
    this.#underWay.set(key, { requestSha256, view });
    try {
      return await view;
    } finally {
      this.#underWay.delete(key);
    }
  }
}
