/**
 * A ledger in a process that can die, for model-based tests. The next one opens the files as they are at that instant.
 */
import { copyFileSync, existsSync, mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { type Ledger, openLedger } from "../../src/ledger/open.ts";

export class CrashingLedger implements Disposable {
  readonly #folder: string;
  #life = 0;
  #ledger: Ledger;

  /** @param folder an empty folder, which the caller removes */
  constructor(folder: string) {
    this.#folder = folder;
    this.#ledger = openLedger(this.#path());
  }

  get ledger(): Ledger {
    return this.#ledger;
  }

  /** The process dies now. */
  crash(): void {
    this.#copyToNextLife();
    this.#beginNextLife();
  }

  /** The process dies after `change` has done its work and before it is committed. */
  crashWithin(change: (ledger: Ledger) => void): void {
    const neverCommitted = new Error("the process died here");
    try {
      this.#ledger.write(() => {
        change(this.#ledger);
        this.#copyToNextLife();
        throw neverCommitted;
      });
    } catch (error) {
      if (error !== neverCommitted) throw error;
    }
    this.#beginNextLife();
  }

  [Symbol.dispose](): void {
    this.#ledger.close();
  }

  #path(life: number = this.#life): string {
    return join(this.#folder, String(life), "ledger.db");
  }

  /** The shared-memory index is left out, as after a reboot, because it is rebuilt from the log. */
  #copyToNextLife(): void {
    mkdirSync(join(this.#folder, String(this.#life + 1)));
    for (const suffix of ["", "-wal"]) {
      const from = this.#path() + suffix;
      if (existsSync(from)) copyFileSync(from, this.#path(this.#life + 1) + suffix);
    }
  }

  #beginNextLife(): void {
    this.#ledger.close();
    rmSync(join(this.#folder, String(this.#life)), { recursive: true });
    this.#life += 1;
    this.#ledger = openLedger(this.#path());
  }
}
