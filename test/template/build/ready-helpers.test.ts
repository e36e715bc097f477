/** The SDKs' ready helpers: their texts are known, and the agent answers as their programs would. */
import { spawn } from "node:child_process";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import * as sdk from "e2b";
import * as earlier from "e2b-v1-routes";
import { expect, test } from "vitest";
import { askReady, parseReadyHelper } from "../../../src/template/build/ready-helpers.ts";
import { startLocalAgent } from "../../support/guest/local-agent.ts";

test.each([
  ["the SDK", sdk],
  ["the SDK of before", earlier],
])("the helpers of %s are known by their texts", (_, { waitForPort, waitForURL, waitForProcess, waitForFile }) => {
  const parse = (command: { getCmd(): string }) => parseReadyHelper(command.getCmd());
  expect(parse(waitForPort(8123))).toEqual({ kind: "port", port: 8123 });
  const url = "http://localhost:3000/health?a=b&c='d'";
  expect(parse(waitForURL("http://localhost:3000/health?a=b", 204))).toMatchObject({ kind: "url", status: 204 });
  expect(parse(waitForURL(url))).toBeUndefined();
  expect(parse(waitForURL("https://example.com/"))).toBeUndefined();
  expect(parse(waitForProcess("my-daemon"))).toEqual({ kind: "process", name: "my-daemon" });
  expect(parse(waitForProcess("a|b"))).toBeUndefined();
  expect(parse(waitForFile("/tmp/x"))).toBeUndefined();
  expect(
    parseReadyHelper('curl -s -o /dev/null -w "%{http_code}" http://localhost/$(id) | grep -q "200"'),
  ).toBeUndefined();
});

test("the agent knows the ports, pages and processes of its guest", async () => {
  const server = createServer((request, response) => response.writeHead(request.url === "/ok" ? 200 : 503).end("x"));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const socket = createSocket("udp4").bind(0, "127.0.0.1");
  await once(socket, "listening");
  const process = spawn("sleep", ["100"]);
  await using local = await startLocalAgent();
  const ask = (helper: Parameters<typeof askReady>[1]) => askReady(local.agent, helper, new AbortController().signal);
  const { port } = server.address() as AddressInfo;
  const page = (path: string, at = port) =>
    ({ kind: "url", url: new URL(`http://localhost:${at}${path}`), status: 200 }) as const;
  expect(await ask({ kind: "port", port })).toBe(true);
  expect(await ask({ kind: "port", port: socket.address().port })).toBe(true);
  expect(await ask(page("/ok"))).toBe(true);
  expect(await ask(page("/no"))).toBe(false);
  expect(await ask({ kind: "process", name: "sleep" })).toBe(true);
  expect(await ask({ kind: "process", name: "no-such-process" })).toBe(false);
  server.close();
  server.closeAllConnections();
  await once(server, "close");
  expect(await ask({ kind: "port", port })).toBe(false);
  expect(await ask(page("/ok"))).toBe(false);
  socket.close();
  process.kill();
});
