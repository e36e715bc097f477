/** A registry on the loopback with images that the bench makes: layers of one tar archive each, read from a file. */
import { execFile } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { createReadStream } from "node:fs";
import { mkdir, rm, stat, writeFile } from "node:fs/promises";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

export interface Layer {
  readonly path: string;
  readonly sizeBytes: number;
  /** Of the archive, which is not compressed. */
  readonly digest: string;
}

/** Makes an archive of so many files of one size, in folders of a hundred. Their content does not repeat within a file. */
export async function makeLayer(folder: string, name: string, files: number, fileBytes: number): Promise<Layer> {
  const tree = join(folder, `${name}-tree`);
  const path = join(folder, `${name}.tar`);
  const content = randomBytes(fileBytes + files);
  for (let at = 0; at < files; at++) {
    const place = join(tree, "data", String(Math.floor(at / 100)));
    if (at % 100 === 0) await mkdir(place, { recursive: true });
    await writeFile(join(place, String(at)), content.subarray(at, at + fileBytes));
  }
  await run("tar", ["-C", tree, "--owner=0", "--group=0", "-cf", path, "data"]);
  await rm(tree, { recursive: true });
  const hash = createHash("sha256");
  for await (const piece of createReadStream(path)) hash.update(piece as Buffer);
  return { path, sizeBytes: (await stat(path)).size, digest: `sha256:${hash.digest("hex")}` };
}

export class ImageRegistry implements AsyncDisposable {
  readonly #server = createServer((request, response) => this.#answer(request.url ?? "", response));
  readonly #texts = new Map<string, string>();
  readonly #layers = new Map<string, Layer>();

  static async open(): Promise<ImageRegistry> {
    const registry = new ImageRegistry();
    registry.#server.listen(0, "127.0.0.1");
    await once(registry.#server, "listening");
    return registry;
  }

  /** @returns the reference of an image with these layers */
  add(name: string, layers: readonly Layer[]): string {
    const configuration = JSON.stringify({
      os: "linux",
      architecture: process.arch === "arm64" ? "arm64" : "amd64",
      config: {},
      rootfs: { type: "layers", diff_ids: layers.map(({ digest }) => digest) },
    });
    const config = { digest: digestOf(configuration), size: configuration.length };
    const mediaType = "application/vnd.oci.image.layer.v1.tar";
    const described = layers.map(({ digest, sizeBytes }) => ({ mediaType, digest, size: sizeBytes }));
    this.#texts.set(`/v2/${name}/manifests/latest`, JSON.stringify({ schemaVersion: 2, config, layers: described }));
    this.#texts.set(`/v2/${name}/blobs/${config.digest}`, configuration);
    for (const layer of layers) this.#layers.set(`/v2/${name}/blobs/${layer.digest}`, layer);
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}/${name}:latest`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #answer(path: string, response: ServerResponse): void {
    const text = this.#texts.get(path);
    const layer = this.#layers.get(path);
    if (text !== undefined) response.end(text);
    else if (layer) createReadStream(layer.path).pipe(response.writeHead(200, { "content-length": layer.sizeBytes }));
    else response.writeHead(404).end();
  }
}

const digestOf = (text: string) => `sha256:${createHash("sha256").update(text).digest("hex")}`;
