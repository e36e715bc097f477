/** The way to a registry: through the host's proxy where it has one, and never to this host's loopback through it. */
import { Agent, type Dispatcher, EnvHttpProxyAgent } from "undici";
import { isLoopback } from "./reference.ts";

const options = { connect: { timeout: 20_000 }, headersTimeout: 60_000, bodyTimeout: 60_000 };
let direct: Agent | undefined;
let proxied: EnvHttpProxyAgent | undefined;

export function networkFor(url: URL): Dispatcher {
  if (isLoopback(url.host)) {
    direct ??= new Agent(options);
    return direct;
  }
  proxied ??= new EnvHttpProxyAgent(options);
  return proxied;
}
