/** Clients that leave in the middle of anything: no line of the log above debug, because nothing has failed. */
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { envelope } from "../support/clients/connect-frames.ts";
import { type LocalSandbox, startLocalSandbox } from "../support/guest/local-session.ts";

let sandbox: LocalSandbox;
let service: Server;

beforeEach(async () => {
  sandbox = await startLocalSandbox("iaaleaving");
  service = createServer((socket) => {
    socket.on("error", () => {});
    socket.once("data", (head) => {
      const isUpgrade = /^upgrade:/im.test(String(head));
      socket.write(
        isUpgrade ? "HTTP/1.1 101 Now\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n" : "HTTP/1.1 200 OK\r\n\r\n",
      );
      const more = setInterval(() => socket.write("x".repeat(1000)), 1);
      socket.once("close", () => clearInterval(more));
    });
  });
  service.listen(0, "127.0.0.1");
  await once(service, "listening");
});
afterEach(async () => {
  await sandbox[Symbol.asyncDispose]();
  service.close();
  expect([...sandbox.plane.logged, ...sandbox.session.logged]).toEqual([]);
});

const command = (script: string) => envelope({ process: { cmd: "/bin/sh", args: ["-c", script] } });
const large = () => join(sandbox.folder, "large");
const upload = "content-length: 1000000";

interface Asked {
  readonly line: string;
  readonly lines: readonly string[];
  readonly body?: string | Uint8Array;
  /** Whether nothing comes back before the client leaves. */
  readonly isMute?: boolean;
  readonly port?: true;
}

const rpc = (method: string, body: Uint8Array, length = body.length): Asked => ({
  line: `POST /${method} HTTP/1.1`,
  lines: ["content-type: application/connect+json", `content-length: ${length}`],
  body,
});

const cases: readonly (readonly [string, () => Asked])[] = [
  ["a quiet command", () => rpc("process.Process/Start", command("echo; sleep 600"))],
  ["a command that floods", () => rpc("process.Process/Start", command("yes"))],
  ["a watcher", () => rpc("filesystem.Filesystem/WatchDir", envelope({ path: sandbox.folder }))],
  ["half a message", () => ({ ...rpc("process.Process/Start", command("true").subarray(0, 9), 99), isMute: true })],
  [
    "a message of one call that is half there",
    () => ({
      line: "POST /process.Process/SendInput HTTP/1.1",
      lines: ["content-type: application/json", "content-length: 99"],
      body: '{"process":',
      isMute: true,
    }),
  ],
  [
    "a stream of input",
    () => ({ ...rpc("process.Process/StreamInput", envelope({ start: { process: { pid: 1 } } }), 9999), isMute: true }),
  ],
  ["a download", () => ({ line: `GET /files?path=${large()} HTTP/1.1`, lines: [] })],
  ["a packed download", () => ({ line: `GET /files?path=${large()} HTTP/1.1`, lines: ["accept-encoding: gzip"] })],
  [
    "an upload",
    () => ({
      line: `POST /files?path=${large()}2 HTTP/1.1`,
      lines: ["content-type: application/octet-stream", upload],
      body: "some",
      isMute: true,
    }),
  ],
  [
    "a packed upload",
    () => ({
      line: `POST /files?path=${large()}3 HTTP/1.1`,
      lines: ["content-type: application/octet-stream", "content-encoding: gzip", upload],
      body: Uint8Array.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]),
      isMute: true,
    }),
  ],
  [
    "a form",
    () => ({
      line: "POST /files HTTP/1.1",
      lines: ["content-type: multipart/form-data; boundary=x", upload],
      body: `--x\r\ncontent-disposition: form-data; name="file"; filename="${large()}4"\r\n\r\nsome`,
      isMute: true,
    }),
  ],
  [
    "an RPC in JSON that is never finished",
    () => ({
      line: "POST /files/compose HTTP/1.1",
      lines: ["content-type: application/json", upload],
      body: "{",
      isMute: true,
    }),
  ],
  ["an answer of a port", () => ({ line: "GET / HTTP/1.1", lines: [], port: true })],
  ["a body for a port", () => ({ line: "POST / HTTP/1.1", lines: [upload], body: "some", port: true })],
  ["an upgrade", () => ({ line: "GET / HTTP/1.1", lines: ["connection: upgrade", "upgrade: x"], port: true })],
];

test.each(cases)("%s", async (_name, asking) => {
  await writeFile(large(), Buffer.alloc(8 << 20, "x"));
  for (const leave of ["resetAndDestroy", "destroy", "end"] as const) {
    const { line, lines, body = "", isMute = false, port = false } = asking();
    const target = {
      ...sandbox.session.headers,
      ...(port && { "e2b-sandbox-port": String((service.address() as AddressInfo).port) }),
    };
    const all = [
      line,
      "host: localhost",
      ...Object.entries(target).map(([name, value]) => `${name}: ${value}`),
      ...lines,
    ];
    const accepted = once(sandbox.plane.server, "connection");
    const asked = once(
      sandbox.plane.server,
      port && lines.some((each) => /^upgrade/.test(each)) ? "upgrade" : "request",
    );
    const socket = connect(sandbox.plane.port, "127.0.0.1");
    socket.on("error", () => {});
    socket.write(`${all.join("\r\n")}\r\n\r\n`);
    socket.write(body);
    const [server] = (await accepted) as [Socket];
    await asked;
    if (!isMute) await once(socket, "data");
    const closed = new Promise((resolve) => server.once("close", resolve));
    // What has ended its half may still read. It leaves when the daemon has seen that.
    if (leave === "end") {
      const ended = new Promise((resolve) => server.once("end", resolve));
      socket.pause().end();
      await Promise.race([ended, closed]);
      socket.destroy();
    } else socket[leave]();
    await closed;
  }
  // The work of a client that has left ends soon after.
  await sandbox.session.agent.stat(sandbox.folder);
  expect([...sandbox.plane.logged, ...sandbox.session.logged]).toEqual([]);
});
