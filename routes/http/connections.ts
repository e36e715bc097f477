/**
 * The connection guard decides which connections make room for others. A connection without a proven key is a
 * stranger's. One that carries no request is idle. Of one peer few idle strangers stay, and some places are kept for
 * clients with a key.
 */
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { Clock } from "../../src/clock.ts";
import { resetConnection } from "./connection-reset.ts";

export interface ConnectionLimits {
  /** All connections. Far below the limit of open files: machines, files and the ledger need descriptors too. */
  readonly total: number;
  /** Connections without a proven key. The rest is for clients with one. */
  readonly strangers: number;
  /** Idle connections without a proven key, of one peer. */
  readonly idleOfPeer: number;
  /** For so long a new connection counts as one that is about to send its request. */
  readonly graceMs: number;
}

const connectionLimits: ConnectionLimits = { total: 4_096, strangers: 3_584, idleOfPeer: 256, graceMs: 2_000 };

interface Connection {
  readonly guard: ConnectionGuard;
  readonly socket: Socket;
  readonly peer: string;
  readonly sinceMs: number;
  isStranger: boolean;
  /** Requests that have no whole answer yet. */
  requests: number;
}

const bySocket = new WeakMap<Duplex, Connection>();

/** Guards the connections of a server, also those that another server hands to it. */
export function guardConnections(server: Server, clock: Clock, limits: ConnectionLimits = connectionLimits): void {
  const guard = new ConnectionGuard(clock, limits);
  server.on("connection", (socket: Socket) => guard.open(socket));
  server.on("request", ({ socket }: IncomingMessage, response: ServerResponse) => guard.begin(socket, response));
  // The connection belongs to another protocol now, and is never idle again.
  server.on("upgrade", ({ socket }: IncomingMessage) => guard.begin(socket));
}

/** Notes that the client of this connection has shown a key that is right: the API key, or a token of a sandbox. */
export function noteKey(socket: Duplex): void {
  const connection = bySocket.get(socket);
  if (connection) connection.guard.trust(connection);
}

class ConnectionGuard {
  readonly #clock: Clock;
  readonly #limits: ConnectionLimits;
  #total = 0;
  /** The oldest first. */
  readonly #strangers = new Set<Connection>();
  /** Strangers that are idle, the one that has been so for longest first. */
  readonly #idle = new Set<Connection>();
  readonly #idleByPeer = new Map<string, Set<Connection>>();

  constructor(clock: Clock, limits: ConnectionLimits) {
    this.#clock = clock;
    this.#limits = limits;
  }

  open(socket: Socket): void {
    const peer = peerOf(socket.remoteAddress);
    const sinceMs = this.#clock.monotonicMs();
    const connection: Connection = { guard: this, socket, peer, sinceMs, isStranger: true, requests: 0 };
    bySocket.set(socket, connection);
    this.#total++;
    this.#strangers.add(connection);
    this.#rest(connection);
    socket.once("close", () => this.#forget(connection));
    this.#makeRoom(connection);
  }

  /** A request begins. Without an `answer` whose end would show it, it never ends. */
  begin(socket: Duplex, answer?: ServerResponse): void {
    const connection = bySocket.get(socket);
    if (!connection) return;
    connection.requests++;
    this.#rouse(connection);
    answer?.once("close", () => {
      connection.requests--;
      if (connection.requests === 0 && connection.isStranger && !connection.socket.destroyed) this.#rest(connection);
    });
  }

  trust(connection: Connection): void {
    if (!connection.isStranger) return;
    connection.isStranger = false;
    this.#strangers.delete(connection);
    this.#rouse(connection);
  }

  #makeRoom(newest: Connection): void {
    const { total, strangers, idleOfPeer, graceMs } = this.#limits;
    const ofPeer = this.#idleByPeer.get(newest.peer) ?? new Set();
    for (const each of ofPeer) {
      if (ofPeer.size <= idleOfPeer || newest.sinceMs - each.sinceMs < graceMs) break;
      this.#end(each);
    }
    // Idle connections go first. The newest one is about to send its request, so it goes last.
    while (this.#strangers.size > strangers || this.#total > total) {
      const [oldestIdle] = this.#idle;
      const [oldest] = this.#strangers;
      this.#end((oldestIdle === newest ? oldest : oldestIdle) ?? newest);
    }
  }

  #end(connection: Connection): void {
    this.#forget(connection);
    resetConnection(connection.socket);
  }

  #forget(connection: Connection): void {
    if (!bySocket.delete(connection.socket)) return;
    this.#total--;
    this.#strangers.delete(connection);
    this.#rouse(connection);
  }

  #rest(connection: Connection): void {
    this.#idle.add(connection);
    const ofPeer = this.#idleByPeer.get(connection.peer) ?? new Set();
    this.#idleByPeer.set(connection.peer, ofPeer.add(connection));
  }

  #rouse(connection: Connection): void {
    this.#idle.delete(connection);
    const ofPeer = this.#idleByPeer.get(connection.peer);
    ofPeer?.delete(connection);
    if (ofPeer?.size === 0) this.#idleByPeer.delete(connection.peer);
  }
}

/**
 * Who is at the other end, as far as an address tells: this machine has many, and a host of IPv6 has all that begin with
 * the same 64 bits.
 */
export function peerOf(address = ""): string {
  const bare = address.replace(/^::ffff:(?=\d+\.)/i, "");
  if (bare === "::1" || /^127\./.test(bare)) return "this machine";
  if (!bare.includes(":")) return bare;
  const [head = "", tail] = bare.split("::");
  const groups = head.split(":");
  // The groups that `::` stands for are zeroes; those behind it matter only when the part before has not four.
  const behind = tail === undefined || tail === "" ? [] : tail.split(":");
  const zeroes = tail === undefined ? 0 : 8 - groups.length - behind.length;
  return [...groups, ...Array<string>(Math.max(zeroes, 0)).fill("0"), ...behind].slice(0, 4).join(":");
}
