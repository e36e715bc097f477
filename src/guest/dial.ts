/** TCP ports inside the guest, as sockets. */
import { Duplex } from "node:stream";
import { DomainError } from "../errors.ts";
import { onAbort, throwIfAborted } from "./abort.ts";
import type { GuestAgent } from "./agent.ts";
import { FieldWriter } from "./fields.ts";
import type { FrameLink } from "./frame-link.ts";
import { EventKind, Operation, Tag } from "./protocol.ts";
import type { GuestStream } from "./stream.ts";

export function dialOperation(link: FrameLink): GuestAgent["dial"] {
  return async (port, signal) => {
    throwIfAborted(signal);
    const stream = link.open(Operation.dial, new FieldWriter().integer(Tag.port, port));
    using _ = onAbort(signal, (reason) => stream.reset(reason));
    await stream.event(EventKind.started, () => true);
    return new GuestSocket(stream);
  };
}

/** A connection with half-close and back-pressure, and with those methods of a `net.Socket` that HTTP clients call. */
class GuestSocket extends Duplex {
  readonly #stream: GuestStream;
  /** `#fill` goes on by itself when more arrives. */
  #isWaiting = false;

  constructor(stream: GuestStream) {
    super({ allowHalfOpen: true });
    this.#stream = stream;
    // A guest can break any connection at any moment: one that nobody listens to must not take the daemon down.
    this.on("error", () => {});
  }

  override _read(): void {
    if (!this.#isWaiting) this.#fill();
  }

  override _write(chunk: Uint8Array, _encoding: BufferEncoding, callback: (error?: Error) => void): void {
    this.#stream.outlet.send(chunk).then(() => callback(), callback);
  }

  override _final(callback: () => void): void {
    void this.#stream.outlet.end().then(callback);
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    // When both directions were closed in order the agent may still be writing our last bytes: it ends by itself.
    const isComplete = this.#stream.isDataEnded && this.#stream.outlet.isEnded;
    if (error || !isComplete) this.#stream.reset(new DomainError("cancelled", "The connection was closed"));
    callback(error);
  }

  setKeepAlive(): this {
    return this;
  }

  setNoDelay(): this {
    return this;
  }

  /** Time-outs are the business of whoever uses the connection. */
  setTimeout(): this {
    return this;
  }

  ref(): this {
    return this;
  }

  unref(): this {
    return this;
  }

  /** Moves what has arrived into this stream's own buffer until that is full, then waits for more or for the end. */
  #fill(): void {
    const stream = this.#stream;
    for (let chunk = stream.takeData(); chunk; chunk = stream.takeData()) {
      if (!this.push(chunk.bytes)) return;
    }
    if (!stream.isDataEnded) {
      this.#isWaiting = true;
      void stream.changed().then(() => {
        this.#isWaiting = false;
        this.#fill();
      });
    } else if (stream.isOpen) {
      this.push(null);
    } else {
      stream.result(() => this.push(null)).catch((error: Error) => this.destroy(error));
    }
  }
}
