/**
 * HTTPS for a domain of the daemon's own: certificates, the TLS front and a name server, opened together. `src/tls`
 * calls no other folder; it hands decrypted connections to the HTTP server that it is given.
 */
import type { Server } from "node:http";
import type { Clock } from "../clock.ts";
import type { Logger } from "../log.ts";
import type { Scope } from "../scope.ts";
import type { TlsSettings } from "./instructions.ts";
import { NameServer } from "./name-server.ts";
import { type CertificateFiles, openCertificates } from "./store.ts";
import { TlsFront } from "./tls-front.ts";

export interface HttpsOptions {
  readonly stateDir: string;
  readonly host: string;
  readonly domain: string;
  readonly tlsPort: number;
  readonly dnsPort: number | undefined;
}

export interface HttpsDependencies {
  /** The HTTP server that gets the decrypted connections. */
  readonly server: Server;
  readonly clock: Clock;
  readonly log: Logger;
}

export interface Https {
  readonly settings: TlsSettings;
  readonly files: CertificateFiles;
  /** Makes a new certificate when the one in use ends soon. Open connections keep theirs. */
  renew(): Promise<void>;
}

/** Opens HTTPS in `scope`. @throws DomainError `invalid_state` when a port is taken or a file cannot be read */
export async function openHttps(
  { stateDir, host, domain, tlsPort, dnsPort }: HttpsOptions,
  { server, clock, log }: HttpsDependencies,
  scope: Scope,
): Promise<Https> {
  let current = await openCertificates(stateDir, domain, clock.nowMs());
  const front = await TlsFront.listen({ host, port: tlsPort, certificate: current.server, server });
  scope.use(front);
  const names = dnsPort === undefined ? undefined : await NameServer.listen(domain, dnsPort);
  if (names) scope.use(names);
  return {
    settings: { domain, port: front.port, dnsPort: names?.port },
    files: current.files,
    async renew() {
      const next = await openCertificates(stateDir, domain, clock.nowMs());
      if (next.serverEndMs === current.serverEndMs) return;
      front.useCertificate(next.server);
      log.info({ domain, isNewAuthority: next.isNewAuthority }, "the certificate is renewed");
      current = next;
    },
  };
}
