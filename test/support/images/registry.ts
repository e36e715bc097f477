/** A registry for tests, on the loopback. Each test decides how honest it is. */
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { digestOf, type TestImage } from "./make-image.ts";

export interface SeenRequest {
  readonly method: string;
  readonly path: string;
  readonly authorization: string | undefined;
  readonly range: string | undefined;
}

/** Answers a request instead of the registry, and says whether it did. */
export type Interference = (request: IncomingMessage, response: ServerResponse) => boolean;

export class TestRegistry implements AsyncDisposable {
  readonly #server = createServer((request, response) => this.#answer(request, response));
  readonly #blobs = new Map<string, Buffer>();
  readonly #manifests = new Map<string, Buffer>();
  readonly seen: SeenRequest[] = [];
  interfere: Interference = () => false;

  static async open(): Promise<TestRegistry> {
    const registry = new TestRegistry();
    registry.#server.listen(0, "127.0.0.1");
    registry.#server.unref();
    await once(registry.#server, "listening");
    return registry;
  }

  /** `127.0.0.1:PORT` */
  get host(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Adds an image. @returns its reference */
  add(name: string, image: TestImage, tag = "latest"): string {
    for (const [digest, bytes] of image.blobs) this.#blobs.set(digest, bytes);
    this.addManifest(name, image.manifest, tag);
    return `${this.host}/${name}:${tag}`;
  }

  addManifest(name: string, manifest: Buffer, tag: string): void {
    this.#manifests.set(`${name}/${tag}`, manifest);
    this.#manifests.set(`${name}/${digestOf(manifest)}`, manifest);
  }

  /** Puts other bytes in the place of a blob. */
  spoil(digest: string, bytes: Buffer): void {
    this.#blobs.set(digest, bytes);
  }

  /** How often a blob was asked for. */
  pulls(digest: string): number {
    return this.seen.filter(({ path }) => path.endsWith(`/blobs/${digest}`)).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const path = request.url ?? "";
    const { authorization, range } = request.headers;
    this.seen.push({ method: request.method ?? "", path, authorization, range });
    if (this.interfere(request, response)) return;
    const manifest = /^\/v2\/(.+)\/manifests\/([^/]+)$/.exec(path);
    if (manifest) {
      this.#send(response, this.#manifests.get(`${manifest[1]}/${manifest[2]}`), "MANIFEST_UNKNOWN");
      return;
    }
    const blob = /^\/v2\/(.+)\/blobs\/([^/]+)$/.exec(path);
    const bytes = blob && this.#blobs.get(blob[2] ?? "");
    const from = Number(/^bytes=(\d+)-$/.exec(range ?? "")?.[1] ?? 0);
    if (bytes && from > 0) {
      response.writeHead(206, { "content-length": bytes.length - from }).end(bytes.subarray(from));
      return;
    }
    this.#send(response, bytes ?? undefined, "BLOB_UNKNOWN");
  }

  #send(response: ServerResponse, bytes: Buffer | undefined, code: string): void {
    if (!bytes) {
      refuse(response, 404, code);
      return;
    }
    response.writeHead(200, { "content-length": bytes.length, "docker-content-digest": digestOf(bytes) }).end(bytes);
  }
}

export function refuse(
  response: ServerResponse,
  status: number,
  code: string,
  headers: Readonly<Record<string, string>> = {},
): void {
  response.writeHead(status, { "content-type": "application/json", ...headers });
  response.end(JSON.stringify({ errors: [{ code, message: "as the test wants it" }] }));
}
