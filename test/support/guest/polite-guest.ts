/**
 * A polite guest has no kernel: it greets, takes every set-up, and ends every command well at once. For the fake
 * engine.
 */
import type { Duplex } from "node:stream";
import { Fields, FieldWriter } from "../../../src/guest/link/fields.ts";
import { EventKind, FrameType, Operation, Tag } from "../../../src/guest/link/protocol.ts";
import { FakeAgent, ok, payloadOf } from "../fakes/fake-agent.ts";
import { duplexPair } from "./duplex-pair.ts";

/** The guests of one host: a record of their requests, and the answers that a test wants. */
export class PoliteGuests {
  /** Host names that were given, in order. */
  readonly hostnames: string[] = [];
  /** Milliseconds since the epoch that were given, in order. */
  readonly times: number[] = [];
  /** Environments that were given, in order. */
  readonly envs: Record<string, string>[] = [];
  /** Commands that were run. */
  commands = 0;
  /** The number of coming set-ups that are refused. */
  refusedSetups = 0;

  /** The boot id that the guests say from now on. */
  bootId = "boot";

  /** True: requests are taken and not answered. */
  isSilent = false;

  /** A shutdown is never answered. */
  ignoresShutdown = false;

  #latest: FakeAgent | undefined;

  /** The agent at the newest link. */
  get latest(): FakeAgent {
    if (!this.#latest) throw new Error("no host has connected yet");
    return this.#latest;
  }

  /** The host's end of a new link. */
  connect(): Duplex {
    const [hostEnd, guestEnd] = duplexPair();
    this.#latest = new FakeAgent(guestEnd);
    void this.#serve(this.#latest);
    return hostEnd;
  }

  async #serve(fake: FakeAgent): Promise<void> {
    fake.sendWelcome(await fake.hello(), { bootId: this.bootId });
    for (;;) {
      const { stream, payload } = await fake.next(FrameType.open);
      if (this.isSilent) continue;
      this.#answer(fake, stream, payload);
    }
  }

  #answer(fake: FakeAgent, stream: number, payload: Uint8Array): void {
    const operation = Buffer.from(payload).readUInt16BE(0);
    if (operation === Operation.exec) {
      this.commands += 1;
      fake.send(FrameType.event, stream, new FieldWriter().integer(Tag.pid, 7).payload(EventKind.started));
      const end = (fields: FieldWriter) => fields.integer(Tag.exitCode, 0).boolean(Tag.exited, true);
      fake.send(FrameType.result, stream, payloadOf(0, end));
      return;
    }
    if (operation === Operation.shutdown && this.ignoresShutdown) return;
    if (operation === Operation.setup) {
      if (this.refusedSetups > 0) {
        this.refusedSetups -= 1;
        fake.send(FrameType.result, stream, payloadOf(1));
        return;
      }
      const setup = Fields.decode(payload.subarray(2));
      const timeNs = setup.optionalInteger(Tag.timeNs);
      if (timeNs !== undefined) this.times.push(timeNs / 1e6);
      const hostname = setup.optionalString(Tag.hostname);
      if (hostname === undefined) return void fake.send(FrameType.result, stream, ok);
      this.hostnames.push(hostname);
      this.envs.push(Object.fromEntries(setup.strings(Tag.env).map((pair) => pair.split(/=(.*)/s))));
    }
    fake.send(FrameType.result, stream, ok);
  }
}
