/**
 * A client of the E2B protocol that does as little as possible, so that the bench measures the daemon and not an SDK.
 */
import { setTimeout as delay } from "node:timers/promises";
import { Agent, request } from "undici";

export interface BenchSandbox {
  readonly sandboxID: string;
  readonly envdAccessToken: string;
}

export interface CommandResult {
  readonly exitCode: number;
}

export class E2bClient {
  readonly url: string;
  readonly apiKey: string;
  readonly #agent = new Agent({ connections: 32, headersTimeout: 120_000, bodyTimeout: 0 });

  constructor(url: string, apiKey: string) {
    this.url = url;
    this.apiKey = apiKey;
  }

  async create(templateID = "base"): Promise<BenchSandbox> {
    return (await this.#api("POST", "/v2/sandboxes", { templateID, timeout: 3600 }, 201)) as BenchSandbox;
  }

  /** Creates a sandbox of a template that the daemon makes for the first who asks, once that is made. */
  async createWhenReady(templateID: string): Promise<BenchSandbox> {
    for (;;) {
      try {
        return await this.create(templateID);
      } catch (error) {
        if (!(error instanceof Error) || !error.message.includes("answered 503")) throw error;
        await delay(1_000);
      }
    }
  }

  async kill({ sandboxID }: BenchSandbox): Promise<void> {
    await this.#api("DELETE", `/sandboxes/${sandboxID}`, undefined, 204);
  }

  async pause({ sandboxID }: BenchSandbox): Promise<void> {
    await this.#api("POST", `/sandboxes/${sandboxID}/pause`, {}, 204);
  }

  /** Resumes a paused sandbox. */
  async resume({ sandboxID }: BenchSandbox): Promise<void> {
    await this.#api("POST", `/v2/sandboxes/${sandboxID}/connect`, { timeout: 3600 }, 201);
  }

  /** Forks a running sandbox once. */
  async fork({ sandboxID }: BenchSandbox): Promise<BenchSandbox> {
    const answer = await this.#api("POST", `/sandboxes/${sandboxID}/fork`, { count: 1 }, 201);
    const [child] = answer as { readonly sandbox?: BenchSandbox }[];
    if (!child?.sandbox) throw new Error(`the fork failed: ${JSON.stringify(answer)}`);
    return child.sandbox;
  }

  async health(): Promise<void> {
    const { statusCode, body } = await request(`${this.url}/health`, { dispatcher: this.#agent });
    await body.dump();
    if (statusCode !== 204) throw new Error(`GET /health answered ${statusCode}`);
  }

  /** @param series a metric's name with its labels, as Prometheus writes it; 0 when it is not there */
  async metric(series: string): Promise<number> {
    const { body } = await request(`${this.url}/metrics`, { dispatcher: this.#agent });
    const line = (await body.text()).split("\n").find((each) => each.startsWith(`${series} `));
    return line === undefined ? 0 : Number(line.slice(series.length));
  }

  async list(): Promise<BenchSandbox[]> {
    return (await this.#api("GET", "/v2/sandboxes", undefined, 200)) as BenchSandbox[];
  }

  /** Runs a command as the SDK does, reads its stream to the end, and calls back at its first output. */
  async command(sandbox: BenchSandbox, command: string, onFirstOutput = () => {}): Promise<CommandResult> {
    const body = await this.#start(sandbox, command);
    let text = "";
    let seen = false;
    for await (const chunk of body) {
      text += (chunk as Buffer).toString("latin1");
      if (!seen && text.includes('"data"')) {
        seen = true;
        onFirstOutput();
      }
    }
    if (!text.includes('"end"')) throw new Error(`the command's stream broke off: ${text}`);
    // JSON of protobuf leaves zero out.
    return { exitCode: Number(/"exitCode":(-?\d+)/.exec(text)?.[1] ?? 0) };
  }

  /** Starts a command and reads its stream to the end, without a look at it. */
  async drain(sandbox: BenchSandbox, command: string): Promise<void> {
    for await (const _ of await this.#start(sandbox, command));
  }

  /** Starts a command that goes on, leaves its stream, and returns its pid. */
  async background(sandbox: BenchSandbox, command: string, user?: string): Promise<number> {
    const body = await this.#start(sandbox, command, user);
    let text = "";
    for await (const chunk of body) {
      text += (chunk as Buffer).toString("latin1");
      const pid = /"pid":(\d+)/.exec(text)?.[1];
      // Leaving the loop destroys the stream.
      if (pid !== undefined) return Number(pid);
    }
    throw new Error(`the command did not start: ${text}`);
  }

  /** Runs a command and gives its standard output. */
  async output(sandbox: BenchSandbox, command: string): Promise<string> {
    const parts: Buffer[] = [];
    let pending = Buffer.alloc(0);
    for await (const chunk of await this.#start(sandbox, command)) {
      pending = Buffer.concat([pending, chunk as Buffer]);
      while (pending.length >= 5 && pending.length >= 5 + pending.readUInt32BE(1)) {
        const end = 5 + pending.readUInt32BE(1);
        const { event } = JSON.parse(pending.subarray(5, end).toString()) as { event?: { data?: { stdout?: string } } };
        if (event?.data?.stdout) parts.push(Buffer.from(event.data.stdout, "base64"));
        pending = pending.subarray(end);
      }
    }
    return Buffer.concat(parts).toString();
  }

  /** Runs a cell as the SDK of the code interpreter does, and reads its stream to the end. */
  async cell(sandbox: BenchSandbox, code: string, context?: string): Promise<void> {
    const text = await this.#interpreter(sandbox, "POST", "/execute", { code, context_id: context });
    if (!text.endsWith('{"type": "end_of_execution"}\n')) throw new Error(`the cell's stream broke off: ${text}`);
    if (text.includes('{"type": "error"')) throw new Error(`the cell failed: ${text}`);
  }

  /** Makes a context of the code interpreter and gives its id. */
  async context(sandbox: BenchSandbox): Promise<string> {
    return (JSON.parse(await this.#interpreter(sandbox, "POST", "/contexts", {})) as { id: string }).id;
  }

  async removeContext(sandbox: BenchSandbox, id: string): Promise<void> {
    await this.#interpreter(sandbox, "DELETE", `/contexts/${id}`);
  }

  async upload(sandbox: BenchSandbox, path: string, bytes: Buffer): Promise<void> {
    const { statusCode, body } = await request(`${this.url}/files?path=${encodeURIComponent(path)}`, {
      method: "POST",
      dispatcher: this.#agent,
      headers: { ...routingHeaders(sandbox), "content-type": "application/octet-stream" },
      body: bytes,
    });
    const answer = await body.text();
    if (statusCode !== 200) throw new Error(`upload answered ${statusCode}: ${answer}`);
  }

  /** Returns the number of bytes read. */
  async download(sandbox: BenchSandbox, path: string): Promise<number> {
    const { statusCode, body } = await request(`${this.url}/files?path=${encodeURIComponent(path)}`, {
      dispatcher: this.#agent,
      headers: routingHeaders(sandbox),
    });
    if (statusCode !== 200) throw new Error(`download answered ${statusCode}: ${await body.text()}`);
    let bytes = 0;
    for await (const chunk of body) bytes += (chunk as Buffer).length;
    return bytes;
  }

  /** Ends the requests that are under way. */
  async close(): Promise<void> {
    await this.#agent.destroy();
  }

  async #start(sandbox: BenchSandbox, command: string, user?: string): Promise<AsyncIterable<unknown>> {
    const { headers, ...rest } = commandRequest(sandbox, command);
    const authorization = user === undefined ? {} : { authorization: `Basic ${btoa(`${user}:`)}` };
    const { statusCode, body } = await request(`${this.url}/process.Process/Start`, {
      ...rest,
      headers: { ...headers, ...authorization },
      dispatcher: this.#agent,
    });
    if (statusCode !== 200) throw new Error(`Start answered ${statusCode}: ${await body.text()}`);
    return body;
  }

  async #interpreter(sandbox: BenchSandbox, method: "POST" | "DELETE", path: string, json?: object): Promise<string> {
    const { statusCode, body } = await request(`${this.url}${path}`, {
      method,
      dispatcher: this.#agent,
      headers: { ...routingHeaders(sandbox), "e2b-sandbox-port": "49999", "content-type": "application/json" },
      ...(json !== undefined && { body: JSON.stringify(json) }),
    });
    const text = await body.text();
    if (statusCode !== 200) throw new Error(`${method} ${path} answered ${statusCode}: ${text}`);
    return text;
  }

  async #api(method: "GET" | "POST" | "DELETE", path: string, json: unknown, expected: number): Promise<unknown> {
    const { statusCode, body } = await request(`${this.url}${path}`, {
      method,
      dispatcher: this.#agent,
      headers: { "x-api-key": this.apiKey, "content-type": "application/json" },
      ...(json !== undefined && { body: JSON.stringify(json) }),
    });
    const text = await body.text();
    if (statusCode !== expected) throw new Error(`${method} ${path} answered ${statusCode}: ${text}`);
    return text === "" ? undefined : JSON.parse(text);
  }
}

/** The headers that bring a request to a sandbox. */
export const routingHeaders = ({ sandboxID, envdAccessToken }: BenchSandbox) => ({
  "e2b-sandbox-id": sandboxID,
  "e2b-sandbox-port": "49983",
  "x-access-token": envdAccessToken,
});

/** Starts a command as the SDK does: a login shell, over Connect in JSON. */
export function commandRequest(sandbox: BenchSandbox, command: string) {
  const message = Buffer.from(
    JSON.stringify({ process: { cmd: "/bin/bash", args: ["-l", "-c", command] }, stdin: false }),
  );
  const envelope = Buffer.alloc(5 + message.length);
  envelope.writeUInt32BE(message.length, 1);
  message.copy(envelope, 5);
  const headers = { "content-type": "application/connect+json", "connect-protocol-version": "1" };
  return { method: "POST", headers: { ...routingHeaders(sandbox), ...headers }, body: envelope } as const;
}
