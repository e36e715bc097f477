/** A WebSocket client for tests: gives the messages of the daemon one by one, and how the connection ended. */
import { once } from "node:events";
import { type ClientOptions, WebSocket } from "ws";
import { serverMessage } from "../../../routes/control/process-protocol.ts";

export type Said = Readonly<Record<string, unknown>> & { readonly type: string };

const channels = ["", "stdout", "stderr", "terminal"];

export class SocketClient {
  readonly socket: WebSocket;
  /** Text messages that no `next` has taken yet. */
  readonly #said: Said[] = [];
  /** All output so far, by channel. */
  readonly output: Record<string, string> = { stdout: "", stderr: "", terminal: "" };
  /** Bytes of all channels: the offset from which a later connection resumes. */
  outputBytes = 0;
  readonly closed: Promise<{ code: number; reason: string }>;
  #wake: () => void = () => {};

  private constructor(socket: WebSocket) {
    this.socket = socket;
    this.closed = new Promise((resolve) => {
      socket.once("close", (code, reason) => resolve({ code, reason: String(reason) }));
    });
    // A broken connection ends in `close`, and `open` rejects when the daemon refuses.
    socket.on("error", () => {});
    void this.closed.then(() => this.#wake());
    socket.on("message", (bytes: Buffer, isBinary: boolean) => {
      if (isBinary) {
        const channel = channels[bytes[0] ?? 0] ?? "";
        this.output[channel] += bytes.subarray(1).toString("latin1");
        this.outputBytes += bytes.byteLength - 1;
      } else {
        this.#said.push(serverMessage.parse(JSON.parse(bytes.toString())));
      }
      this.#wake();
    });
  }

  /** @throws an error that ends with the status when the upgrade is refused. */
  static async open(url: string, options: ClientOptions = {}): Promise<SocketClient> {
    const socket = new WebSocket(url.replace(/^http/, "ws"), options);
    const client = new SocketClient(socket);
    await once(socket, "open");
    return client;
  }

  say(message: object): void {
    this.socket.send(JSON.stringify(message));
  }

  input(text: string): void {
    this.socket.send(Buffer.from(text));
  }

  /** The next text message. */
  async next(): Promise<Said> {
    await this.#until(() => this.#said.length > 0);
    const said = this.#said.shift();
    if (!said) throw new Error("the connection closed without another message");
    return said;
  }

  /** Waits until a channel has put out `text`. */
  async sees(text: string, channel = "stdout"): Promise<void> {
    await this.#until(() => this.output[channel]?.includes(text) ?? false);
    if (!this.output[channel]?.includes(text)) throw new Error(`closed after: ${this.output[channel]}`);
  }

  /** Drops the connection as a network does, without a close frame. */
  drop(): void {
    this.socket.terminate();
  }

  async close(code = 1000): Promise<void> {
    this.socket.close(code);
    await this.closed;
  }

  async #until(holds: () => boolean): Promise<void> {
    while (!holds() && this.socket.readyState !== WebSocket.CLOSED) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}
