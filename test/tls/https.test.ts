/** HTTPS in front of an HTTP server, and the name server beside it. */
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import { Agent, request } from "node:https";
import { connect as connectTcp } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect } from "node:tls";
import { decode, encode, type Packet } from "dns-packet";
import { pino } from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import { resetConnection } from "../../routes/http/connection-reset.ts";
import { Scope } from "../../src/scope.ts";
import { type Https, openHttps } from "../../src/tls/https.ts";
import { domainWithPort, tlsInstructions } from "../../src/tls/instructions.ts";
import { answerQuestion } from "../../src/tls/name-server.ts";
import { ManualClock } from "../support/fakes/manual-clock.ts";

const domain = "firkin.test";
/** Not `localhost`: a system without a hosts file does not know it. */
const host = "127.0.0.1";
const clock = new ManualClock();
const scope = new Scope();
let stateDir: string;
let server: Server;
let https: Https;
let ca: string;

beforeAll(async () => {
  stateDir = await mkdtemp(join(tmpdir(), "firkin-https-"));
  server = createServer((asked, response) => response.end(`${asked.headers.host} ${asked.url}`));
  server.on("upgrade", (_request, socket) => {
    socket.write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
    socket.pipe(socket);
  });
  // Clients judge by their own clock.
  await clock.advance(Date.now() - clock.nowMs());
  const options = { stateDir, host, domain, tlsPort: 0, dnsPort: 0 };
  https = await openHttps(options, { server, clock, log: pino({ level: "silent" }) }, scope);
  ca = await readFile(https.files.authority, "utf8");
});
afterAll(async () => {
  await scope.close();
  server.close();
  await rm(stateDir, { recursive: true });
});

const servername = `api.${domain}`;
const dial = () => connect({ host, port: https.settings.port, ca, servername, ALPNProtocols: ["h2", "http/1.1"] });

async function get(agent: Agent): Promise<string> {
  const headers = { host: domainWithPort(https.settings) };
  const asked = request({ host, port: https.settings.port, path: "/x", agent, headers, ca, servername }).end();
  const [response] = await once(asked, "response");
  let text = "";
  for await (const chunk of response) text += chunk;
  return text;
}

test("requests come through, many on one connection", async () => {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const connections: unknown[] = [];
  server.on("connection", (socket) => connections.push(socket));
  for (let n = 0; n < 3; n++) expect(await get(agent)).toBe(`${domain}:${https.settings.port} /x`);
  expect(connections).toHaveLength(1);
  agent.destroy();
});

test("the handshake says HTTP/1.1, and an upgrade works", async () => {
  const socket = dial();
  await once(socket, "secureConnect");
  expect(socket.alpnProtocol).toBe("http/1.1");
  socket.write("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
  expect(String((await once(socket, "data"))[0])).toMatch(/^HTTP\/1\.1 101 /);
  socket.write("hello");
  expect(String((await once(socket, "data"))[0])).toBe("hello");
  socket.destroy();
});

test("a connection can be reset, which its client tells from an orderly end", async () => {
  server.once("connection", (socket) => socket.once("data", () => resetConnection(socket)));
  const socket = dial();
  await once(socket, "secureConnect");
  const failed = once(socket, "error");
  socket.write("GET / HTTP/1.1\r\n");
  expect((await failed)[0]).toMatchObject({ code: "ECONNRESET" });
});

test("connections that never shake hands make room for others", async () => {
  const mute = Array.from({ length: 300 }, () => connectTcp(https.settings.port, host).on("error", () => {}));
  await expect.poll(() => mute.filter((socket) => socket.closed).length).toBe(300 - 256);
  const agent = new Agent({ keepAlive: false });
  expect(await get(agent)).toBe(`${domain}:${https.settings.port} /x`);
  for (const socket of mute) socket.destroy();
});

test("a client that speaks no TLS loses its connection", async () => {
  const socket = connectTcp(https.settings.port, "127.0.0.1");
  socket.on("error", () => {});
  socket.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
  await once(socket, "close");
});

test("the certificate is renewed while it serves", async () => {
  const before = await peerEnd();
  await https.renew();
  expect(await peerEnd()).toBe(before);
  await clock.advance(61 * 86_400_000);
  await https.renew();
  expect(await peerEnd()).not.toBe(before);
});

async function peerEnd(): Promise<string> {
  const socket = connect({ host, port: https.settings.port, servername, rejectUnauthorized: false });
  await once(socket, "secureConnect");
  const { valid_to: end } = socket.getPeerCertificate();
  socket.destroy();
  return end;
}

function question(name: string, type: "A" | "AAAA" | "TXT" = "A", changes: Packet = {}): Buffer {
  return encode({ type: "query", id: 7, flags: 1 << 8, questions: [{ type, name, class: "IN" }], ...changes });
}

test("the name server answers for its domain alone", async () => {
  const client = createSocket("udp4");
  const askFor = async (name: string, type?: "A" | "AAAA") => {
    client.send(question(name, type), https.settings.dnsPort ?? 0, "127.0.0.1");
    const [message] = (await once(client, "message")) as [Buffer];
    const { id, rcode, answers } = decode(message) as ReturnType<typeof decode> & { rcode: string };
    return { id, rcode, answers: (answers ?? []).map((answer) => ("data" in answer ? answer.data : undefined)) };
  };
  for (const name of [domain, `api.${domain}`, `3000-iaa1.${domain}`, `API.Firkin.TEST`]) {
    expect(await askFor(name)).toEqual({ id: 7, rcode: "NOERROR", answers: ["127.0.0.1"] });
  }
  expect(await askFor(`api.${domain}`, "AAAA")).toEqual({ id: 7, rcode: "NOERROR", answers: [] });
  for (const name of ["example.com", `not${domain}`, "test"]) {
    expect(await askFor(name)).toEqual({ id: 7, rcode: "REFUSED", answers: [] });
  }
  client.close();
});

test("a message that is no question is not answered", () => {
  const answer = encode({ type: "response", id: 1, questions: [{ type: "A", name: domain, class: "IN" }] });
  for (const message of [Buffer.alloc(0), Buffer.from("nonsense"), answer, question(domain, "A", { questions: [] })]) {
    expect(answerQuestion(message, domain)).toBeUndefined();
  }
});

test("a port that is taken is an error that says what to do", async () => {
  const own = new Scope();
  const options = { stateDir, host, domain, tlsPort: https.settings.port, dnsPort: undefined };
  await expect(openHttps(options, { server, clock, log: pino({ level: "silent" }) }, own)).rejects.toMatchObject({
    code: "invalid_state",
    message: expect.stringContaining("Choose another with --tls-port"),
  });
  await own.close();
});

test("the instructions name the files, the domain and the port", () => {
  const text = tlsInstructions({ domain, port: 443 }, https.files);
  expect(text).toContain(`https://api.${domain} and`);
  expect(text).toContain(`NODE_EXTRA_CA_CERTS=${https.files.authority}`);
  expect(text).toContain(`address=/${domain}/127.0.0.1`);
  expect(text).not.toContain("nothing to do");
  const localhost = tlsInstructions({ domain: "firkin.localhost", port: 8443, dnsPort: 5399 }, https.files);
  expect(localhost).toContain("https://api.firkin.localhost:8443 and");
  expect(localhost).toContain("nothing to do");
  expect(localhost).toContain("DNS=127.0.0.1:5399");
});
