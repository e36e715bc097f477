/** The probe loop probes a host until it saves machines, ever more rarely, and writes what it finds into the abilities. */
import { messageOf } from "../../errors.ts";
import type { Ability, EngineInfo, VmDriver } from "../driver.ts";
import { askHelper, type HelperPlace, toAbility } from "./hello.ts";
import type { Hello } from "./helper-messages.ts";
import { type HostProbe, probeHost } from "./host-probe.ts";

const longestWaitMs = 3_600_000;

export type ProbeParts = Omit<HostProbe, "memorySnapshot"> & HelperPlace;

export class ProbeLoop implements AsyncDisposable {
  readonly #driver: VmDriver;
  readonly #parts: ProbeParts;
  readonly #abilities: Record<keyof EngineInfo["abilities"], Ability>;
  #timer: NodeJS.Timeout | undefined;
  #underWay: Promise<void> | undefined;
  #isOver = false;

  constructor(driver: VmDriver, parts: ProbeParts, abilities: Record<keyof EngineInfo["abilities"], Ability>) {
    this.#driver = driver;
    this.#parts = parts;
    this.#abilities = abilities;
  }

  /** Finds out what this host saves. Where that is nothing, the next probe comes after `againMs`. */
  async probe(hello: Hello, againMs: number): Promise<void> {
    const { log } = this.#parts;
    const memory = toAbility(hello.capabilities.memorySnapshot);
    const { memorySnapshot, fanOut } = await probeHost(this.#driver, { ...this.#parts, memorySnapshot: memory });
    Object.assign(this.#abilities, { memorySnapshot, fanOut });
    if (memorySnapshot.supported) return;
    log.warn({ reason: memorySnapshot.reason, againMs }, "this host saves no machines now: sandboxes are booted");
    this.#probeLater(againMs);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isOver = true;
    clearTimeout(this.#timer);
    await this.#underWay;
  }

  #probeLater(waitMs: number): void {
    if (this.#isOver) return;
    const { log } = this.#parts;
    const nextMs = Math.min(waitMs * 2, longestWaitMs);
    this.#timer = setTimeout(() => {
      this.#underWay = askHelper(this.#parts)
        .then((hello) => this.probe(hello, nextMs))
        .catch((error: unknown) => {
          log.warn({ error: messageOf(error) }, "the host cannot be probed again yet");
          this.#probeLater(nextMs);
        });
    }, waitMs);
    this.#timer.unref();
  }
}
