/** The Connect wire by hand: envelopes written and read byte by byte, as a foreign client would. */
import { request } from "node:http";

export interface Envelope {
  readonly flags: number;
  readonly json: unknown;
}

export function envelope(value: unknown, flags = 0): Buffer {
  const payload = typeof value === "string" ? Buffer.from(value) : Buffer.from(JSON.stringify(value));
  const head = Buffer.alloc(5);
  head.writeUInt8(flags, 0);
  head.writeUInt32BE(payload.byteLength, 1);
  return Buffer.concat([head, payload]);
}

export class EnvelopeReader implements AsyncIterable<Envelope> {
  readonly #source: AsyncIterator<Uint8Array>;
  #buffer = Buffer.alloc(0);

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  async next(): Promise<Envelope | undefined> {
    for (;;) {
      if (this.#buffer.byteLength >= 5) {
        const length = this.#buffer.readUInt32BE(1);
        if (this.#buffer.byteLength >= 5 + length) {
          const flags = this.#buffer.readUInt8(0);
          const text = this.#buffer.subarray(5, 5 + length).toString();
          this.#buffer = this.#buffer.subarray(5 + length);
          return { flags, json: JSON.parse(text) };
        }
      }
      const chunk = await this.#source.next();
      if (chunk.done) return undefined;
      this.#buffer = Buffer.concat([this.#buffer, chunk.value]);
    }
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Envelope> {
    for (let next = await this.next(); next; next = await this.next()) yield next;
  }
}

/** Calls a streaming RPC in JSON; the abort signal drops the connection. */
export async function openStream(
  url: string,
  method: string,
  message: unknown,
  headers: Record<string, string>,
  signal?: AbortSignal,
): Promise<{ status: number; frames: EnvelopeReader }> {
  const response = await fetch(`${url}/${method}`, {
    method: "POST",
    headers: { "content-type": "application/connect+json", "connect-protocol-version": "1", ...headers },
    body: message instanceof Buffer ? new Uint8Array(message) : new Uint8Array(envelope(message)),
    ...(signal && { signal }),
  });
  if (!response.body) throw new Error("no body");
  return { status: response.status, frames: new EnvelopeReader(response.body as unknown as AsyncIterable<Uint8Array>) };
}

/** Calls a unary RPC in JSON. */
export async function callUnary(
  url: string,
  method: string,
  message: unknown,
  headers: Record<string, string>,
): Promise<{ status: number; json: Record<string, unknown> }> {
  const response = await fetch(`${url}/${method}`, {
    method: "POST",
    headers: { "content-type": "application/json", "connect-protocol-version": "1", ...headers },
    body: typeof message === "string" ? message : JSON.stringify(message),
  });
  return { status: response.status, json: (await response.json()) as Record<string, unknown> };
}

/** A request whose body stops after `part`, although more was announced; then the client goes away. */
export function abandonUpload(url: string, headers: Record<string, string>, part: Buffer): Promise<void> {
  return new Promise((resolve) => {
    const upload = request(url, { method: "POST", headers: { ...headers, "content-length": String(1 << 30) } });
    upload.on("error", () => resolve());
    upload.write(part, () => setTimeout(() => upload.destroy(new Error("gone")), 50));
  });
}
