/**
 * The host name of a port of a sandbox, `<port>-<id>.<domain>`. The host check and the choice of the plane both read it
 * here, so that a host that passes as a sandbox's never reaches the control plane. Pure.
 */
const form = /^(\d+)-([^.]*)\./;

export interface SandboxHost {
  /** Undefined: the host's number is no port. */
  readonly port: number | undefined;
  /** Undefined: the host's label can be no sandbox's id. */
  readonly sandboxId: string | undefined;
}

/** The sandbox and port that a host names; undefined when the host is not a sandbox's. */
export function parseSandboxHost(host: string): SandboxHost | undefined {
  const match = form.exec(host.toLowerCase());
  if (!match) return undefined;
  const [, port = "", label = ""] = match;
  // Older clients write `<id>-<clientID>`. The second part has no meaning any more.
  return { port: parsePort(port), sandboxId: parseId(label.split("-", 1)[0] ?? "") };
}

/** The port that a text names, from 1 to 65535. */
export function parsePort(text: string): number | undefined {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  return port >= 1 && port <= 65_535 ? port : undefined;
}

/** The text, when it has the form of a sandbox's id. */
export function parseId(text: string): string | undefined {
  return /^[a-z0-9]+$/.test(text) ? text : undefined;
}
