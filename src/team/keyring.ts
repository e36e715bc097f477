/**
 * The API keys that open the control plane: the machine's own, and further ones of which only a hash is kept. A key is
 * 160 random bits, so an unsalted SHA-256 recognises it and tells nothing of it.
 */
import { createHash, randomUUID, timingSafeEqual } from "node:crypto";
import type { Clock } from "../clock.ts";
import { DomainError } from "../errors.ts";
import {
  type ApiKeyRecord,
  deleteApiKey,
  insertApiKey,
  listApiKeys,
  recordApiKeyUses,
  renameApiKey,
} from "../ledger/api-keys.ts";
import type { Ledger } from "../ledger/open.ts";
import type { ApiKeys, ApiKeyView } from "./team.ts";

/** Every request compares with each of them. */
const maxKeys = 100;
const prefix = "e2b_";
const valueLength = 40;

export interface KeyringDependencies {
  readonly ledger: Ledger;
  readonly clock: Clock;
  readonly machineKey: string;
  /** `e2b_` and 40 characters. */
  readonly newKey: () => string;
}

interface Known {
  record: ApiKeyRecord;
  readonly digest: Buffer;
}

export class Keyring implements ApiKeys {
  readonly #deps: KeyringDependencies;
  readonly #machineDigest: Buffer;
  readonly #keys: Map<string, Known>;
  /** When keys were used that the ledger does not know of yet. */
  readonly #uses = new Map<string, number>();

  constructor(deps: KeyringDependencies) {
    this.#deps = deps;
    this.#machineDigest = digestOf(deps.machineKey);
    this.#keys = new Map(listApiKeys(deps.ledger).map((record) => [record.id, known(record)]));
  }

  /** Whether a text is a key, in a time that tells nothing of the keys. */
  accepts(candidate: string): boolean {
    const digest = digestOf(candidate);
    let accepted = timingSafeEqual(digest, this.#machineDigest);
    // All of them, whichever it is.
    for (const { record, digest: other } of this.#keys.values()) {
      if (!timingSafeEqual(digest, other)) continue;
      accepted = true;
      this.#uses.set(record.id, this.#deps.clock.nowMs());
    }
    return accepted;
  }

  list(): ApiKeyView[] {
    return [...this.#keys.values()].map(({ record }) => this.#view(record));
  }

  create(name: string): { view: ApiKeyView; key: string } {
    if (this.#keys.size >= maxKeys) {
      throw new DomainError("failed_precondition", `There are ${maxKeys} API keys already: delete one first`);
    }
    const key = this.#deps.newKey();
    const value = key.slice(prefix.length);
    const record: ApiKeyRecord = {
      id: randomUUID(),
      name,
      sha256: digestOf(key).toString("hex"),
      maskedPrefix: value.slice(0, 2),
      maskedSuffix: value.slice(-4),
      createdAtMs: this.#deps.clock.nowMs(),
      lastUsedAtMs: null,
    };
    insertApiKey(this.#deps.ledger, record);
    this.#keys.set(record.id, known(record));
    return { view: this.#view(record), key };
  }

  rename(id: string, name: string): void {
    const key = this.#keys.get(id);
    if (!key || !renameApiKey(this.#deps.ledger, id, name)) throw notFound(id);
    key.record = { ...key.record, name };
  }

  remove(id: string): void {
    if (!deleteApiKey(this.#deps.ledger, id)) throw notFound(id);
    this.#keys.delete(id);
    this.#uses.delete(id);
  }

  /** Writes down when keys were used; when that fails the next flush does. Not with every request: that would be a write for each. */
  flush(): void {
    recordApiKeyUses(this.#deps.ledger, this.#uses);
    for (const [id, lastUsedAtMs] of this.#uses) {
      const key = this.#keys.get(id);
      if (key) key.record = { ...key.record, lastUsedAtMs };
    }
    this.#uses.clear();
  }

  #view({ id, name, maskedPrefix, maskedSuffix, createdAtMs, lastUsedAtMs }: ApiKeyRecord): ApiKeyView {
    return {
      id,
      name,
      mask: { prefix, valueLength, first: maskedPrefix, last: maskedSuffix },
      createdAtMs,
      lastUsedAtMs: this.#uses.get(id) ?? lastUsedAtMs,
    };
  }
}

function known(record: ApiKeyRecord): Known {
  return { record, digest: Buffer.from(record.sha256, "hex") };
}

function digestOf(key: string): Buffer {
  return createHash("sha256").update(key).digest();
}

function notFound(id: string): DomainError {
  return new DomainError("not_found", `API key '${id.slice(0, 64)}' not found`);
}
