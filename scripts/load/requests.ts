/** The mixed requests of the load: control plane, files and processes of every sandbox in turn. */
import { type BenchSandbox, routingHeaders } from "../bench/e2b-client.ts";

/** One request in autocannon's form. */
export interface LoadRequest {
  readonly method: "GET" | "POST";
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string | Buffer;
}

const fileBytes = 4_096;

/** Six requests for each sandbox. Every request must be answered with 2xx. */
export function mixedRequests(apiKey: string, sandboxes: readonly BenchSandbox[]): LoadRequest[] {
  const key = { "x-api-key": apiKey };
  return sandboxes.flatMap((sandbox) => {
    const routing = routingHeaders(sandbox);
    const json = { ...routing, "content-type": "application/json" };
    const bytes = { ...routing, "content-type": "application/octet-stream" };
    const file = "/files?path=load.bin";
    return [
      { method: "POST", path: file, headers: bytes, body: Buffer.alloc(fileBytes, "x") },
      { method: "GET", path: file, headers: routing },
      { method: "GET", path: "/v2/sandboxes", headers: key },
      { method: "GET", path: `/sandboxes/${sandbox.sandboxID}`, headers: key },
      { method: "POST", path: "/process.Process/List", headers: json, body: "{}" },
      { method: "POST", path: "/filesystem.Filesystem/Stat", headers: json, body: '{"path":"/home/user"}' },
    ] as const;
  });
}
