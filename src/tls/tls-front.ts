/**
 * HTTPS on a port of its own, in front of the HTTP server: what comes out of TLS is a connection of that server, with all
 * its limits, its routes and its end. HTTP/1.1 only, and said so in the handshake: an upgrade needs it, and so does an
 * answer that is passed on with the very status line and connection that a service in a sandbox gave it.
 */
import type { Server } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { createServer, type Server as TlsServer } from "node:tls";
import { DomainError } from "../errors.ts";
import type { KeyAndCertificate } from "./certificates.ts";

const handshakeTimeoutMs = 10_000;

export interface TlsFrontOptions {
  readonly host: string;
  /** 0: any that is free. */
  readonly port: number;
  readonly certificate: KeyAndCertificate;
  /** Gets the connections. Its end ends them. */
  readonly server: Server;
}

export class TlsFront implements AsyncDisposable {
  readonly #server: TlsServer;
  /** Every connection, from before its handshake on. */
  readonly #sockets = new Set<Socket>();

  private constructor(server: TlsServer) {
    this.#server = server;
    server.on("connection", (socket: Socket) => {
      this.#sockets.add(socket);
      socket.once("close", () => this.#sockets.delete(socket));
    });
  }

  /** @throws DomainError `invalid_state` when the port is taken, or not for this user */
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
      server.emit("connection", socket);
    });
    // A client that does not trust us, or speaks no TLS: its own business.
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

  /** For connections from now on. */
  useCertificate({ key, certificate }: KeyAndCertificate): void {
    this.#server.setSecureContext({ key, cert: certificate });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }
}

function describeListenError(error: NodeJS.ErrnoException, port: number): Error {
  if (error.code === "EADDRINUSE") {
    return new DomainError("invalid_state", `Port ${port} is in use. Choose another with --tls-port.`);
  }
  if (error.code === "EACCES") {
    const advice =
      "Choose one above 1023 with --tls-port, or let users have it: sysctl -w net.ipv4.ip_unprivileged_port_start=443";
    return new DomainError("invalid_state", `Port ${port} is not for this user. ${advice}`);
  }
  return error;
}
