/**
 * The name server is for machines with a resolver that knows no wildcards. It answers for one domain and every name
 * below it, with this machine's loopback address, and refuses every other question. It uses UDP, on loopback only.
 */
import { createSocket, type Socket } from "node:dgram";
import { decode, encode } from "dns-packet";
import { DomainError } from "../errors.ts";

const ttlSeconds = 60;
const loopback = "127.0.0.1";
const flags = { authoritative: 1 << 10, recursionDesired: 1 << 8 } as const;
const refused = 5;
const notImplemented = 4;

export class NameServer implements AsyncDisposable {
  readonly #socket: Socket;

  private constructor(socket: Socket) {
    this.#socket = socket;
  }

  /**
   * @param port 0: any free port
   * @throws DomainError `invalid_state` when the port is taken, or this user may not have it
   */
  static async listen(domain: string, port: number): Promise<NameServer> {
    const socket = createSocket("udp4");
    await new Promise<void>((resolve, reject) => {
      socket.once("error", (error) => {
        const problem = `The name server cannot listen on ${loopback}:${port}: ${error.message}. Choose another --dns-port.`;
        reject(new DomainError("invalid_state", problem));
      });
      socket.bind(port, loopback, resolve);
    });
    socket.on("error", () => {});
    socket.on("message", (question, peer) => {
      const answer = answerQuestion(question, domain);
      if (answer) socket.send(answer, peer.port, peer.address);
    });
    return new NameServer(socket);
  }

  get port(): number {
    return this.#socket.address().port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await new Promise<void>((resolve) => this.#socket.close(resolve));
  }
}

/** The answer to a message; undefined when it is no question, so that two servers never answer each other. Pure. */
export function answerQuestion(message: Buffer, domain: string): Buffer | undefined {
  let query: ReturnType<typeof decode>;
  try {
    query = decode(message);
  } catch {
    return undefined;
  }
  const [question, ...more] = query.questions ?? [];
  if (query.type !== "query" || !question || more.length > 0) return undefined;
  const copiedFlags = (query.flags ?? 0) & flags.recursionDesired;
  const reply = (code: number, answers: Parameters<typeof encode>[0]["answers"] = []) =>
    encode({
      type: "response",
      ...(query.id === undefined ? {} : { id: query.id }),
      flags: copiedFlags | flags.authoritative | code,
      questions: [question],
      answers,
    });
  const opcode = ((message[2] ?? 0) >> 3) & 0xf;
  if (opcode !== 0) return reply(notImplemented);
  const name = question.name.toLowerCase();
  if (name !== domain && !name.endsWith(`.${domain}`)) return reply(refused);
  if (question.type !== "A") return reply(0);
  return reply(0, [{ type: "A", class: "IN", name: question.name, ttl: ttlSeconds, data: loopback }]);
}
