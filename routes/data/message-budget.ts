/**
 * The message budget: the bytes of RPC messages that the daemon holds for one sandbox at a time. A message is parsed
 * when all of it has come, so without a bound many large messages that never end would fill the daemon's memory.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { Session } from "../../src/runtime/sessions/session.ts";

const maxHeldBytes = 64 * 1024 * 1024;

const held = new WeakMap<Session, number>();

/**
 * The same body, charged to the session until `release` is called. The charge is at most `maxBytes`, the size of the
 * largest message. Reading the body throws `resource_exhausted` when the session holds too much.
 */
export function meterBody(
  body: AsyncIterable<Uint8Array>,
  session: Session,
  maxBytes: number,
): { readonly body: AsyncIterable<Uint8Array>; release(): void } {
  let charged = 0;
  return {
    body: charging(body, (bytes) => {
      const charge = Math.min(bytes, maxBytes - charged);
      const total = (held.get(session) ?? 0) + charge;
      if (total > maxHeldBytes) {
        const message = `the sandbox's requests hold ${maxHeldBytes} bytes of messages already`;
        throw new ConnectError(message, Code.ResourceExhausted);
      }
      charged += charge;
      held.set(session, total);
    }),
    release: () => {
      held.set(session, (held.get(session) ?? 0) - charged);
      charged = 0;
    },
  };
}

async function* charging(body: AsyncIterable<Uint8Array>, charge: (bytes: number) => void): AsyncGenerator<Uint8Array> {
  for await (const chunk of body) {
    charge(chunk.byteLength);
    yield chunk;
  }
}
