/**
 * The sandbox domain: clients reach a port of a sandbox at `<port>-<id>.<domain>`. It is the domain by which the client
 * itself reached the daemon, so that a sandbox's name resolves wherever the API's name does. Pure.
 */

/**
 * @param host the `Host` of the client's request; the server has checked that the name is its own
 * @returns the domain with its port, unless it is the protocol's own; `localhost:3000` resolves in browsers and in curl
 */
export function sandboxDomainFor(host: string | undefined): string | null {
  if (host === undefined) return null;
  const [, name = "", port = ""] = /^(.*?)(:\d+)?$/.exec(host.toLowerCase()) ?? [];
  // Only a daemon with a domain of its own is called `api.…`. An address has no names below it, but `localhost` has.
  return name.startsWith("api.") ? `${name.slice("api.".length)}${port}` : `localhost${port}`;
}
