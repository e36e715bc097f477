/**
 * The guests of the fake engine are behind a port like a serial one: a link can be opened again and again, one at a
 * time, and bytes that the guest sends without a link are lost.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { Duplex } from "node:stream";
import { DomainError } from "../../../src/errors.ts";

export type FakeGuest =
  /** The real agent as a process of this machine, over a socket pair. */
  | { readonly kind: "agent"; readonly command: readonly [string, ...string[]] }
  /** A guest that takes everything and never answers. */
  | { readonly kind: "silent" }
  /** A guest that answers every write with bytes that are no protocol. */
  | { readonly kind: "garbage" }
  /** The test plays the guest: `connect` gives the host's end of each link. */
  | { readonly kind: "scripted"; readonly connect: () => Duplex };

export interface GuestPort {
  connect(): Duplex;
  /** Ends the guest and its link. */
  close(): void;
}

export function openGuestPort(guest: FakeGuest): GuestPort {
  switch (guest.kind) {
    case "agent":
      return new AgentPort(guest.command);
    case "silent":
      return new StreamPort(() => new Responder(undefined));
    case "garbage":
      return new StreamPort(() => new Responder(Buffer.alloc(4096, 0xee)));
    case "scripted":
      return new StreamPort(guest.connect);
    default:
      return guest satisfies never;
  }
}

class StreamPort implements GuestPort {
  readonly #open: () => Duplex;
  #link: Duplex | undefined;

  constructor(open: () => Duplex) {
    this.#open = open;
  }

  connect(): Duplex {
    this.#link?.destroy();
    this.#link = this.#open();
    return this.#link;
  }

  close(): void {
    this.#link?.destroy();
  }
}

/** Answers every write with the same bytes, or with nothing. */
class Responder extends Duplex {
  readonly #answer: Buffer | undefined;

  constructor(answer: Buffer | undefined) {
    super();
    this.#answer = answer;
  }

  override _read(): void {}

  override _write(_chunk: Buffer, _encoding: BufferEncoding, callback: () => void): void {
    if (this.#answer) this.push(this.#answer);
    callback();
  }
}

/** The agent keeps one end of a socket pair for good, and links come and go on the other end. */
class AgentPort implements GuestPort {
  readonly #agent: ChildProcess;
  readonly #socket: Duplex;
  #link: AgentLink | undefined;

  constructor([program, ...args]: readonly [string, ...string[]]) {
    this.#agent = spawn(program, [...args, "--fd", "3"], { stdio: ["ignore", "ignore", "inherit", "pipe"] });
    const socket = this.#agent.stdio[3];
    if (!(socket instanceof Duplex)) throw new DomainError("internal", "the agent has no socket");
    this.#socket = socket;
    this.#agent.once("error", (error) => socket.destroy(error));
    socket.on("error", (error) => this.#link?.destroy(error));
    socket.once("close", () => this.#link?.destroy());
    socket.on("data", (chunk: Buffer) => {
      if (this.#link && !this.#link.push(chunk)) socket.pause();
    });
  }

  connect(): Duplex {
    this.#link?.destroy();
    const link = new AgentLink(this.#socket, () => {
      if (this.#link === link) this.#link = undefined;
      this.#socket.resume();
    });
    this.#link = link;
    return link;
  }

  close(): void {
    this.#link?.destroy();
    this.#socket.destroy();
    this.#agent.kill("SIGKILL");
  }
}

class AgentLink extends Duplex {
  readonly #socket: Duplex;
  readonly #detach: () => void;

  constructor(socket: Duplex, detach: () => void) {
    super();
    this.#socket = socket;
    this.#detach = detach;
  }

  override _read(): void {
    this.#socket.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: (error?: Error | null) => void): void {
    this.#socket.write(chunk, callback);
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    this.#detach();
    callback(error);
  }
}
