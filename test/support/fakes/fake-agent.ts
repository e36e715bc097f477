/** The fake agent: the guest's end of a link, played by a test, which sees the host's frames and sends any frame. */
import type { Duplex } from "node:stream";
import type { GuestAgent } from "../../../src/guest/agent.ts";
import { connectGuestAgent } from "../../../src/guest/connect.ts";
import { FieldWriter } from "../../../src/guest/link/fields.ts";
import { encodeFrame, type Frame, FrameDecoder } from "../../../src/guest/link/frames.ts";
import { FrameType, Tag } from "../../../src/guest/link/protocol.ts";
import { duplexPair } from "../guest/duplex-pair.ts";

/** A payload of a kind, with its fields. */
export function payloadOf(kind: number, build: (fields: FieldWriter) => FieldWriter = (fields) => fields): Uint8Array {
  return build(new FieldWriter()).payload(kind);
}

export const ok = payloadOf(0);

export class FakeAgent implements Disposable {
  readonly bytes: Duplex;
  readonly #decoder = new FrameDecoder();
  /** Frames of the host that no `next` has taken yet. */
  readonly received: Frame[] = [];
  #wake: () => void = () => {};

  constructor(bytes: Duplex) {
    this.bytes = bytes;
    bytes.on("error", () => {});
    bytes.on("data", (chunk: Uint8Array) => {
      this.received.push(...this.#decoder.decode(chunk));
      this.#wake();
    });
  }

  /** The next frame of the host of that type; frames of other types before it are thrown away. */
  async next(type: FrameType): Promise<Frame> {
    for (;;) {
      const frame = this.received.shift();
      if (frame?.type === type) return frame;
      if (frame) continue;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  send(type: FrameType, stream: number, payload: Uint8Array = new Uint8Array(0), channel = 0): void {
    for (const part of encodeFrame({ type, channel, stream, payload })) this.bytes.write(part);
  }

  sendWelcome(nonce: Uint8Array, { version = 1, bootId = "boot" } = {}): void {
    const fields = new FieldWriter()
      .integer(Tag.version, version)
      .string(Tag.agentVersion, "fake")
      .string(Tag.bootId, bootId);
    this.send(FrameType.welcome, 0, Buffer.concat([nonce, fields.payload(0).subarray(2)]));
  }

  /** Waits for HELLO and gives its nonce. */
  async hello(): Promise<Uint8Array> {
    return (await this.next(FrameType.hello)).payload.subarray(10);
  }

  [Symbol.dispose](): void {
    this.bytes.destroy();
  }
}

export interface FakeLink extends Disposable {
  readonly agent: GuestAgent;
  readonly fake: FakeAgent;
  /** The host's end of the byte stream. */
  readonly stream: Duplex;
}

/** Connects a client to a fake agent. */
export async function connectFake(): Promise<FakeLink> {
  const [stream, guestEnd] = duplexPair();
  const fake = new FakeAgent(guestEnd);
  const connecting = connectGuestAgent(stream, { deadlineMs: 5_000 });
  fake.sendWelcome(await fake.hello());
  const agent = await connecting;
  return {
    agent,
    fake,
    stream,
    [Symbol.dispose]() {
      agent.close();
      fake[Symbol.dispose]();
    },
  };
}
