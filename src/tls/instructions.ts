/**
 * The TLS instructions: the steps by which a person makes programs trust the daemon's certificate and find its names.
 * Pure.
 */
import type { CertificateFiles } from "./store.ts";

export interface TlsSettings {
  readonly domain: string;
  /** The port of HTTPS. */
  readonly port: number;
  /** The port of the daemon's own name server, if it has one. */
  readonly dnsPort?: number | undefined;
}

const httpsPort = 443;

/** The domain as clients write it, with the port unless it is 443. */
export function domainWithPort({ domain, port }: TlsSettings): string {
  return port === httpsPort ? domain : `${domain}:${port}`;
}

/** The text of `firkin tls`. */
export function tlsInstructions(settings: TlsSettings, files: CertificateFiles): string {
  const { domain, port, dnsPort } = settings;
  return `HTTPS for https://api.${domainWithPort(settings)} and https://<port>-<sandbox>.${domainWithPort(settings)}

serve:
  npx firkin serve --tls-port ${port} --domain ${domain}${dnsPort === undefined ? "" : ` --dns-port ${dnsPort}`}
  eval "$(npx firkin env)"          # E2B_API_KEY, E2B_DOMAIN and the two variables below

trust (the authority may only vouch for ${domain}):
  Node.js           export NODE_EXTRA_CA_CERTS=${files.authority}
  Python, OpenSSL   export SSL_CERT_FILE=${files.bundle}     # with what the system trusts
  curl              --cacert ${files.authority}
  Debian, Ubuntu    sudo cp ${files.authority} /usr/local/share/ca-certificates/firkin.crt && sudo update-ca-certificates
  Fedora            sudo trust anchor ${files.authority}
  macOS             security add-trusted-cert -r trustRoot -k ~/Library/Keychains/login.keychain-db ${files.authority}
  Firefox, Chrome   import ${files.authority} as an authority for web sites

resolve (one of these):
${resolution(settings)}`;
}

function resolution({ domain, dnsPort }: TlsSettings): string {
  const isLocalhost = domain === "localhost" || domain.endsWith(".localhost");
  const ownServer = dnsPort ?? 5354;
  const server = dnsPort === undefined ? `   # and serve with --dns-port ${ownServer}` : "";
  return [
    ...(isLocalhost
      ? [
          `  nothing to do     browsers, curl, and every program where systemd-resolved or libnss-myhostname (apt-get install`,
          `                    libnss-myhostname) resolves names: *.localhost is this machine there`,
        ]
      : []),
    `  dnsmasq           address=/${domain}/127.0.0.1`,
    `  unbound           local-zone: "${domain}." redirect   and   local-data: "${domain}. A 127.0.0.1"`,
    `  systemd-resolved  /etc/systemd/resolved.conf.d/firkin.conf:  [Resolve]  DNS=127.0.0.1:${ownServer}  Domains=~${domain}${server}`,
    `  macOS             /etc/resolver/${domain}:  nameserver 127.0.0.1  port ${ownServer}${server}`,
    `  /etc/hosts        127.0.0.1 api.${domain}   and a line for each <port>-<sandbox>.${domain}: it knows no wildcards`,
    "",
  ].join("\n");
}
