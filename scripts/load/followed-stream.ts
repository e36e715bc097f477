/** A followed stream: a command that prints for ever, and a reader that counts the chunks of its stream. */
import { Agent, request } from "undici";
import { type BenchSandbox, commandRequest } from "../bench/e2b-client.ts";

const endless = "while :; do echo tick; sleep 0.5; done";

export class FollowedStream {
  /** The chunks that came, at least one for each printed line. */
  events = 0;
  /** The stream ended or broke, though its command does not. */
  ended = false;
  readonly #agent: Agent;

  private constructor(agent: Agent) {
    this.#agent = agent;
  }

  /** Resolves when the command has started. */
  static async open(url: string, sandbox: BenchSandbox): Promise<FollowedStream> {
    const agent = new Agent({ connections: 1, bodyTimeout: 0 });
    const { statusCode, body } = await request(`${url}/process.Process/Start`, {
      ...commandRequest(sandbox, endless),
      dispatcher: agent,
    });
    if (statusCode !== 200) throw new Error(`Start answered ${statusCode}: ${await body.text()}`);
    const stream = new FollowedStream(agent);
    void stream.#follow(body);
    return stream;
  }

  async close(): Promise<void> {
    await this.#agent.destroy();
  }

  async #follow(body: AsyncIterable<unknown>): Promise<void> {
    try {
      for await (const _ of body) this.events += 1;
    } catch {
      // `ended` tells it. Closing the stream ends it in the same way.
    }
    this.ended = true;
  }
}
