/**
 * The keyring holds the API keys that open the control plane: the machine's own, and further keys of which only a hash
 * is kept. A key is 160 random bits, so that an unsalted SHA-256 recognises the key and does not reveal it. This room
 * may call the ledger.
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

/** Bounded, because every request compares its key with each of them. */
const maxKeys = 100;
const prefix = "e2b_";
const valueLength = 40;

/** A key as clients may see it. */
export interface ApiKeyView {
  readonly id: string;
  readonly name: string;
  /** `first` and `last` are the parts of the value that may be shown. The value follows the prefix. */
  readonly mask: {
    readonly prefix: string;
    readonly valueLength: number;
    readonly first: string;
    readonly last: string;
  };
  readonly createdAtMs: number;
  readonly lastUsedAtMs: number | null;
}

/** The keys besides the machine's own, as routes manage them. */
export type ApiKeys = Pick<Keyring, "list" | "create" | "rename" | "remove">;

export interface KeyringDependencies {
  readonly ledger: Ledger;
  readonly clock: Clock;
  readonly machineKey: string;
  /** `e2b_` and 40 characters. */
  readonly newKey: () => string;
}

interface CachedKey {
  record: ApiKeyRecord;
  readonly digest: Buffer;
}

export class Keyring {
  readonly #deps: KeyringDependencies;
  readonly #machineDigest: Buffer;
  readonly #keys: Map<string, CachedKey>;
  /** Uses of keys that the ledger does not have yet: id → wall-clock time. */
  readonly #uses = new Map<string, number>();

  constructor(deps: KeyringDependencies) {
    this.#deps = deps;
    this.#machineDigest = digestOf(deps.machineKey);
    this.#keys = new Map(listApiKeys(deps.ledger).map((record) => [record.id, cachedKey(record)]));
  }

  /** Whether a text is a key. The time of the answer does not depend on the keys. */
  accepts(candidate: string): boolean {
    const digest = digestOf(candidate);
    let accepted = timingSafeEqual(digest, this.#machineDigest);
    // Compares with all keys, even after a match.
    for (const { record, digest: other } of this.#keys.values()) {
      if (!timingSafeEqual(digest, other)) continue;
      accepted = true;
      this.#uses.set(record.id, this.#deps.clock.nowMs());
    }
    return accepted;
  }

  /** Oldest first. */
  list(): ApiKeyView[] {
    return [...this.#keys.values()].map(({ record }) => this.#view(record));
  }

  /**
   * @returns the key itself, which is not kept. @throws DomainError `failed_precondition` when there are too many keys
   */
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
    this.#keys.set(record.id, cachedKey(record));
    return { view: this.#view(record), key };
  }

  /** @throws DomainError `not_found` */
  rename(id: string, name: string): void {
    const key = this.#keys.get(id);
    if (!key || !renameApiKey(this.#deps.ledger, id, name)) throw notFound(id);
    key.record = { ...key.record, name };
  }

  /** Removes a key, which opens nothing from the next request on. @throws DomainError `not_found` */
  remove(id: string): void {
    if (!deleteApiKey(this.#deps.ledger, id)) throw notFound(id);
    this.#keys.delete(id);
    this.#uses.delete(id);
  }

  /**
   * Writes the uses of keys to the ledger, which would be a write for every request otherwise. On failure the next
   * flush does.
   */
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

function cachedKey(record: ApiKeyRecord): CachedKey {
  return { record, digest: Buffer.from(record.sha256, "hex") };
}

function digestOf(key: string): Buffer {
  return createHash("sha256").update(key).digest();
}

function notFound(id: string): DomainError {
  return new DomainError("not_found", `API key '${id.slice(0, 64)}' not found`);
}
