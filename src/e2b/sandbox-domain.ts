/**
 * The domain that clients put `<port>-<id>.` before to reach a port of a sandbox. It is the one that the client came by
 * itself, so that a name of a sandbox resolves, and leads here, wherever the API's did. Pure.
 */

/**
 * @param host the `Host` of the client's request, of which the server has checked that it is a name of its own
 * @returns with the port, when it is not the protocol's own: `localhost:3000` resolves in browsers and in curl
 */
export function sandboxDomainFor(host: string | undefined): string | null {
  if (host === undefined) return null;
  const [, name = "", port = ""] = /^(.*?)(:\d+)?$/.exec(host.toLowerCase()) ?? [];
  // Only a daemon that has a domain of its own is called so. An address has no names below it, and `localhost` has.
  return name.startsWith("api.") ? `${name.slice("api.".length)}${port}` : `localhost${port}`;
}
