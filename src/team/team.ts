/** The team's face towards the routes: who may use the daemon, and how much it was used. There is one team. */

/** What clients may know of a key. */
export interface ApiKeyView {
  readonly id: string;
  readonly name: string;
  /** `first` and `last` are what may be shown of the value, which follows the prefix. */
  readonly mask: {
    readonly prefix: string;
    readonly valueLength: number;
    readonly first: string;
    readonly last: string;
  };
  readonly createdAtMs: number;
  readonly lastUsedAtMs: number | null;
}

/** The keys besides the machine's own. */
export interface ApiKeys {
  /** Oldest first. */
  list(): ApiKeyView[];
  /** @returns the key itself, which nobody can be told again. @throws failed_precondition when there are too many. */
  create(name: string): { readonly view: ApiKeyView; readonly key: string };
  /** @throws not_found. */
  rename(id: string, name: string): void;
  /** From the next request on it opens nothing any more. @throws not_found. */
  remove(id: string): void;
}

/** What all sandboxes together did, around one moment. */
export interface TeamMetricSample {
  readonly atMs: number;
  readonly concurrentSandboxes: number;
  /** Since the sample before. */
  readonly startsPerSecond: number;
}
