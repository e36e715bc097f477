/** The places in a guest where programs look for what is trusted. */
import type { GuestTrust } from "./host-trust.ts";

/** The guest's bundle of all authorities that it trusts. */
export const bundle = "/etc/ssl/certs/ca-certificates.crt";
/** The added authorities alone, for programs that have authorities of their own and take more. */
export const added = "/etc/ssl/firkin-host.pem";
export const sourceFolder = "/usr/local/share/ca-certificates";
/** Variables for programs that do not look at the system's bundle by themselves. */
export const bundleVariables = { SSL_CERT_FILE: bundle, REQUESTS_CA_BUNDLE: bundle, NODE_EXTRA_CA_CERTS: added };

export function aptSettings({ http_proxy: http, https_proxy: https }: GuestTrust["proxyVariables"]): string {
  const line = (scheme: string, url: string | undefined) => (url ? `Acquire::${scheme}::Proxy "${url}";\n` : "");
  return line("http", http) + line("https", https);
}
