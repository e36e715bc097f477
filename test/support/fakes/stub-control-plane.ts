/** The stub control plane: just enough for `Sandbox.connect` of the SDKs to give out a sandbox of a test. */
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type { TestSession } from "../daemon/data-plane.ts";

export interface StubControlPlane extends AsyncDisposable {
  readonly url: string;
}

export async function serveStubControlPlane(session: TestSession): Promise<StubControlPlane> {
  const server = createServer((request, response) => {
    request.resume();
    const known = request.url?.endsWith(`/sandboxes/${session.sandboxId}/connect`) && !session.ended.aborted;
    const body = known
      ? {
          sandboxID: session.sandboxId,
          templateID: session.templateId,
          clientID: "local",
          envdVersion: "0.6.13",
          envdAccessToken: session.accessToken,
          domain: null,
        }
      : { code: 404, message: "not found" };
    response.writeHead(known ? 200 : 404, { "content-type": "application/json" }).end(JSON.stringify(body));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}
