/**
 * The TLS front serves HTTPS on a port of its own, in front of the HTTP server. A decrypted connection becomes one of
 * that server, with its limits, routes and end. The handshake offers HTTP/1.1 only, because upgrades need it, and so
 * do answers that are passed on with the status line and connection that a service in a sandbox gave them.
 */
import type { Server } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { createServer, type TLSSocket, type Server as TlsServer } from "node:tls";
import { DomainError } from "../errors.ts";
import type { KeyAndCertificate } from "./certificates.ts";

const handshakeTimeoutMs = 10_000;
/** The limit of connections whose handshake has not ended. The oldest makes room for a new one. */
const maxHandshakes = 256;

export interface TlsFrontOptions {
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
  readonly certificate: KeyAndCertificate;
  /** The HTTP server that gets the connections, and ends them with its own end. */
  readonly server: Server;
}

export class TlsFront implements AsyncDisposable {
  readonly #server: TlsServer;
  /** Every connection by its two ends, also before its handshake. */
  readonly #sockets = new Map<string, Socket>();
  /** The connections whose handshake has not ended, by their two ends, the oldest first. */
  readonly #handshakes = new Map<string, Socket>();

  private constructor(server: TlsServer) {
    this.#server = server;
    server.on("connection", (socket: Socket) => {
      const ends = endsOf(socket);
      this.#sockets.set(ends, socket);
      this.#handshakes.set(ends, socket);
      socket.once("close", () => {
        this.#sockets.delete(ends);
        this.#handshakes.delete(ends);
      });
      const [oldest] = this.#handshakes.values();
      if (this.#handshakes.size > maxHandshakes) oldest?.destroy();
    });
  }

  /** Makes a decrypted connection resettable, which Node does for bare TCP alone. */
  #finishHandshake(socket: TLSSocket): void {
    const ends = endsOf(socket);
    this.#handshakes.delete(ends);
    const bare = this.#sockets.get(ends);
    socket.resetAndDestroy = () => {
      bare?.resetAndDestroy();
      return socket.destroy();
    };
  }

  /** @throws DomainError `invalid_state` when the port is taken, or this user may not have it */
  static async listen({ host, port, certificate, server }: TlsFrontOptions): Promise<TlsFront> {
    const { key, certificate: cert } = certificate;
    const options = {
      key,
      cert,
      minVersion: "TLSv1.2",
      ALPNProtocols: ["http/1.1"],
      handshakeTimeout: handshakeTimeoutMs,
    };
    const tls = createServer(options as Parameters<typeof createServer>[0], (socket) => {
      front.#finishHandshake(socket);
      server.emit("connection", socket);
    });
    // A client that does not trust the certificate, or speaks no TLS, just loses its connection.
    tls.on("tlsClientError", (_error, socket) => socket.destroy());
    const front = new TlsFront(tls);
    await new Promise<void>((resolve, reject) => {
      tls.once("error", (error: NodeJS.ErrnoException) => reject(describeListenError(error, port)));
      tls.listen(port, host, resolve);
    });
    return front;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Replaces the certificate for later connections. */
  useCertificate({ key, certificate }: KeyAndCertificate): void {
    this.#server.setSecureContext({ key, cert: certificate });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const socket of this.#sockets.values()) socket.destroy();
    await closed;
  }
}

/** Addresses and ports of both ends, which no two open connections share. */
function endsOf({ remoteAddress, remotePort, localAddress, localPort }: Socket): string {
  return [remoteAddress, remotePort, localAddress, localPort].join(" ");
}

function describeListenError(error: NodeJS.ErrnoException, port: number): Error {
  if (error.code === "EADDRINUSE") {
    return new DomainError("invalid_state", `Port ${port} is in use. Choose another with --tls-port.`);
  }
  if (error.code === "EACCES") {
    const advice =
      "Choose one above 1023 with --tls-port, or allow it to users: sysctl -w net.ipv4.ip_unprivileged_port_start=443";
    return new DomainError("invalid_state", `This user may not listen on port ${port}. ${advice}`);
  }
  return error;
}
