/**
 * Creates with an idempotency key, which a client sends again because it never saw the answer: the same key and the
 * same request are the same sandbox, however often they come, also after a restart of the daemon.
 */
import { createHash } from "node:crypto";
import { DomainError } from "../../errors.ts";
import { findIdempotencyKey, type Idempotency } from "../../ledger/idempotency-keys.ts";
import type { CreateOptions, CreateSandboxRequest, SandboxView } from "../contract.ts";
import type { SandboxContext } from "./context.ts";
import type { SandboxCreation } from "./create.ts";

/** The key with a digest of its request; a different digest under the same key is a mismatch. */
function idempotencyOf(key: string, request: CreateSandboxRequest): Idempotency {
  return { key, requestSha256: createHash("sha256").update(JSON.stringify(request)).digest("hex") };
}

export class IdempotentCreates {
  readonly #context: SandboxContext;
  readonly #creation: SandboxCreation;
  readonly #underWay = new Map<string, { readonly requestSha256: string; readonly view: Promise<SandboxView> }>();

  constructor(context: SandboxContext, creation: SandboxCreation) {
    this.#context = context;
    this.#creation = creation;
  }

  /**
   * Creates a sandbox, or gives the sandbox that an earlier create with the same key made. A create with a key is not
   * given up when its client leaves, because the client may come back for it.
   * @throws DomainError `idempotency_mismatch` when the key had another request; `already_exists` when its sandbox has
   *   ended; all that {@link SandboxCreation.create} throws
   */
  async create(
    request: CreateSandboxRequest,
    { idempotencyKey: key, signal }: CreateOptions = {},
  ): Promise<SandboxView> {
    if (key === undefined) return this.#creation.create(request, { signal });
    const idempotency = idempotencyOf(key, request);
    const { requestSha256 } = idempotency;
    const earlier = this.#underWay.get(key) ?? findIdempotencyKey(this.#context.deps.ledger, key);
    if (earlier && earlier.requestSha256 !== requestSha256) {
      throw new DomainError("idempotency_mismatch", `The idempotency key '${key}' was used for another request`);
    }
    if (earlier && "view" in earlier) return earlier.view;
    if (!earlier) return this.#create(request, idempotency);
    const view = this.#context.registry.view(earlier.sandboxId);
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
