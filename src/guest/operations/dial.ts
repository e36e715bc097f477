/** The dial operation: TCP ports inside the guest, as sockets. */
import { Duplex } from "node:stream";
import { DomainError } from "../../errors.ts";
import type { GuestAgent } from "../agent.ts";
import { onAbort, throwIfAborted } from "../link/abort.ts";
import { FieldWriter } from "../link/fields.ts";
import type { FrameLink } from "../link/frame-link.ts";
import { EventKind, Operation, Tag } from "../link/protocol.ts";
import type { GuestStream } from "../link/stream.ts";

export function dialOperation(link: FrameLink): GuestAgent["dial"] {
  return async (port, signal) => {
    throwIfAborted(signal);
    const stream = link.open(Operation.dial, new FieldWriter().integer(Tag.port, port));
    using _ = onAbort(signal, (reason) => stream.reset(reason));
    await stream.event(EventKind.started, () => true);
    return new GuestSocket(stream);
  };
}

/** A guest socket has half-close and back-pressure, and the methods of a `net.Socket` that HTTP clients call. */
class GuestSocket extends Duplex {
  readonly #stream: GuestStream;
  /** `#fill` goes on by itself when more bytes arrive. */
  #isWaiting = false;

  constructor(stream: GuestStream) {
    super({ allowHalfOpen: true });
    this.#stream = stream;
    // A guest can break any connection at any moment. A connection without a listener must not take the daemon down.
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
    // When both directions were closed in order, the agent may still write our last bytes, and then ends the stream
    // itself.
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

  /** Does nothing, because the users of the connection keep their own time-outs. */
  setTimeout(): this {
    return this;
  }

  ref(): this {
    return this;
  }

  unref(): this {
    return this;
  }

  /** Moves arrived bytes into this stream's own buffer until that is full, then waits for more or for the end. */
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
