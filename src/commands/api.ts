/** The control plane of a running daemon, as the command line asks it. */
import { createReadStream, createWriteStream } from "node:fs";
import { stat } from "node:fs/promises";
import { pipeline } from "node:stream/promises";
import { request } from "undici";
import { DomainError, messageOf } from "../errors.ts";

export interface TemplateRow {
  readonly templateID: string;
  readonly names: readonly string[];
  readonly buildStatus: string;
  readonly cpuCount: number;
  readonly memoryMB: number;
  readonly createdAt: string;
}

export interface BuildStatus {
  readonly status: "waiting" | "building" | "ready" | "error";
  readonly logEntries: readonly { readonly message: string; readonly level: string }[];
  readonly reason?: { readonly message: string };
}

/** A sandbox whose files can be read. */
export interface FileSource {
  readonly sandboxID: string;
  readonly envdAccessToken?: string | null;
}

/** The port of a sandbox at which its files are. */
const envdPort = "49983";

export class ControlApi {
  readonly #url: string;
  readonly #key: string;

  constructor(url: string, apiKey: string) {
    this.#url = url;
    this.#key = apiKey;
  }

  /**
   * One request. @returns the body of the answer
   * @throws DomainError `invalid_argument` with the daemon's message, `not_ready` when no daemon answers
   */
  async call<T>(method: "GET" | "POST" | "DELETE", path: string, body?: object): Promise<T> {
    const headers = { "x-api-key": this.#key, ...(body && { "content-type": "application/json" }) };
    const sent = body === undefined ? {} : { body: JSON.stringify(body) };
    const answer = await request(`${this.#url}${path}`, { method, headers, ...sent }).catch((error: unknown) => {
      const message = `no daemon answers at ${this.#url} (${messageOf(error)}): run npm start`;
      throw new DomainError("not_ready", message, {}, { cause: error });
    });
    const text = await answer.body.text();
    const parsed = text === "" ? undefined : (JSON.parse(text) as unknown);
    if (answer.statusCode < 300) return parsed as T;
    throw new DomainError("invalid_argument", (parsed as { message?: string } | undefined)?.message ?? text);
  }

  /** Sends an archive to the link that the daemon gave for it. */
  async upload(url: string, path: string): Promise<void> {
    const { size } = await stat(path);
    const headers = { "content-length": String(size) };
    const answer = await request(url, { method: "PUT", headers, body: createReadStream(path) });
    const text = await answer.body.text();
    if (answer.statusCode >= 300) throw new DomainError("invalid_argument", `the upload failed: ${text}`);
  }

  /** Writes a file of a sandbox to a file of this host. */
  async download({ sandboxID, envdAccessToken }: FileSource, path: string, target: string): Promise<void> {
    const token = envdAccessToken ? { "x-access-token": envdAccessToken } : {};
    const headers = { "e2b-sandbox-id": sandboxID, "e2b-sandbox-port": envdPort, ...token };
    const query = new URLSearchParams({ path, username: "root" });
    const answer = await request(`${this.#url}/files?${query}`, { headers });
    if (answer.statusCode !== 200) throw new DomainError("invalid_argument", await answer.body.text());
    await pipeline(answer.body, createWriteStream(target));
  }
}
