/** Port heads: what a service in a sandbox and its client see of each other's heads, byte by byte, and nothing else. */
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { openIngress } from "../support/daemon/ingress.ts";
import { type LocalSandbox, startLocalSandbox } from "../support/guest/local-session.ts";

let sandbox: LocalSandbox;
let service: Server;
/** What the service got on its latest connection, and what it sends back once a whole head has come. */
let got = "";
let answer = "";
let inside: Socket | undefined;

beforeAll(async () => {
  sandbox = await startLocalSandbox("iaaheads");
  service = createServer((socket) => {
    inside = socket;
    socket.on("error", () => {});
    socket.on("data", (chunk) => {
      const hadHead = got.includes("\r\n\r\n");
      got += chunk.toString("latin1");
      if (!hadHead && got.includes("\r\n\r\n")) socket.write(answer, "latin1");
    });
  });
  service.listen(0, "127.0.0.1");
  await once(service, "listening");
});
afterAll(async () => {
  await sandbox[Symbol.asyncDispose]();
  inside?.destroy();
  service.close();
  expect(sandbox.plane.logged).toEqual([]);
});
beforeEach(() => {
  sandbox.session.ingress = openIngress;
  got = "";
  answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
});
afterEach(() => inside?.destroy());

/** A request as bytes, with the lines that lead to the service. */
function head(requestLine: string, lines: readonly string[]): string {
  const { port } = service.address() as AddressInfo;
  const all = [requestLine, `e2b-sandbox-id: iaaheads`, `e2b-sandbox-port: ${port}`, ...lines];
  return `${all.join("\r\n")}\r\n\r\n`;
}

/** Sends bytes and gives what has come back when it contains `until`, or the connection has ended. */
async function exchange(bytes: string, until: string): Promise<string> {
  const socket = connect(sandbox.plane.port, "127.0.0.1");
  let text = "";
  let isClosed = false;
  socket.on("error", () => {});
  socket.on("close", () => {
    isClosed = true;
  });
  socket.on("data", (chunk) => {
    text += chunk.toString("latin1");
  });
  socket.write(bytes, "latin1");
  await expect.poll(() => isClosed || text.includes(until)).toBe(true);
  socket.destroy();
  return text;
}

const linesOf = (message: string) => (message.split("\r\n\r\n", 1)[0] ?? "").split("\r\n").slice(1);
const upgradeLines = ["connection: Upgrade", "upgrade: websocket", "Sec-WebSocket-Key: AAAA"];

describe("requests", () => {
  test("names keep their case, repeated headers stay apart, and the host is written Host", async () => {
    const lines = ["host: localhost", "X-MiXed: One", "x-mixed: two", "Cookie: a=1", "cookie: b=2", "X-Latin: \xe9"];
    await exchange(head("GET / HTTP/1.1", lines), "ok");
    const expected = ["Host: localhost", "X-MiXed: One", "x-mixed: two", "Cookie: a=1", "cookie: b=2", "X-Latin: \xe9"];
    expect(linesOf(got)).toEqual(expect.arrayContaining(expected));
    expect(linesOf(got).filter((line) => /mixed|cookie|host:/i.test(line))).toEqual(expected.slice(0, 5));
  });

  test("an upgrade passes heads on in the same way", async () => {
    answer = "HTTP/1.1 101 Fine \xe9\r\nUPGRADE: websocket\r\nConnection: Upgrade\r\nX-Two: a\r\nx-two: b\r\n\r\nhello";
    const lines = ["host: localhost", "X-MiXed: One", "x-mixed: two", ...upgradeLines];
    const text = await exchange(head("GET /ws HTTP/1.1", lines), "hello");
    expect(linesOf(got)).toEqual(
      expect.arrayContaining([
        "Host: localhost",
        "X-MiXed: One",
        "x-mixed: two",
        "connection: Upgrade",
        "upgrade: websocket",
        "Sec-WebSocket-Key: AAAA",
      ]),
    );
    expect(text).toBe(answer);
  });

  test("the masked host is one Host, also in an upgrade", async () => {
    sandbox.session.ingress = { ...openIngress, maskRequestHost: `inner:\${PORT}` };
    const { port } = service.address() as AddressInfo;
    await exchange(head("GET / HTTP/1.1", ["host: localhost"]), "ok");
    expect(linesOf(got).filter((line) => /host/i.test(line))).toEqual([
      `Host: inner:${port}`,
      "X-Forwarded-Host: localhost",
    ]);
    got = "";
    await exchange(head("GET / HTTP/1.1", ["host: localhost", "x-forwarded-host: evil", ...upgradeLines]), "ok");
    expect(linesOf(got).filter((line) => /host/i.test(line))).toEqual([
      `Host: inner:${port}`,
      "X-Forwarded-Host: localhost",
    ]);
  });

  test.each(["Content-Length", "content-length, host", "transfer-encoding, Host, X-Own"])(
    "Connection: %s takes no framing and no host away",
    async (named) => {
      const chunked = named.startsWith("transfer");
      const framing = chunked ? "Transfer-Encoding: chunked" : "Content-Length: 2";
      const lines = ["Host: localhost", `Connection: ${named}`, "X-Own: 1", framing];
      await exchange(`${head("POST /p HTTP/1.1", lines)}${chunked ? "2\r\nhi\r\n0\r\n\r\n" : "hi"}`, "ok");
      expect(linesOf(got)).toContain("Host: localhost");
      expect(linesOf(got)).toContain(framing);
      expect(linesOf(got).includes("X-Own: 1")).toBe(!chunked);
    },
  );

  test("a body that comes in chunks stays framed behind more headers than Node keeps by default", async () => {
    const many = Array.from({ length: 1_100 }, (_, index) => `a${index}:`);
    const lines = ["Host: localhost", ...many, "Transfer-Encoding: chunked"];
    const smuggled = "GET /smuggled HTTP/1.1\r\n\r\n";
    const body = `${smuggled.length.toString(16)}\r\n${smuggled}\r\n0\r\n\r\n`;
    await exchange(`${head("GET / HTTP/1.1", lines)}${body}`, "HTTP/1.1 ");
    expect(linesOf(got)).toContain("a1099: ");
    expect(linesOf(got)).toContain("Transfer-Encoding: chunked");
  });

  test("a post without a body has the length 0, and a get has none", async () => {
    await exchange(head("POST / HTTP/1.1", ["Host: localhost"]), "ok");
    expect(linesOf(got).filter((line) => /length|encoding/i.test(line))).toEqual(["Content-Length: 0"]);
    got = "";
    await exchange(head("GET / HTTP/1.1", ["Host: localhost"]), "ok");
    expect(linesOf(got).filter((line) => /length|encoding/i.test(line))).toEqual([]);
  });

  test.each([
    ["a request", []],
    ["an upgrade", upgradeLines],
  ])("%s does not carry the keys of the daemon and of sandboxes into a sandbox", async (_name, more) => {
    const keys = ["X-API-Key: secret1", "x-api-key: secret2", "X-Access-Token: secret3"];
    const lines = [
      "Host: localhost",
      ...keys,
      "E2B-Traffic-Access-Token: secret4",
      "Authorization: Bearer own",
      ...more,
    ];
    await exchange(head("GET / HTTP/1.1", lines), "ok");
    expect(got).toContain("Authorization: Bearer own");
    expect(got).not.toContain("secret");
  });

  test("a path that cannot be passed on as it is is the client's mistake", async () => {
    for (const more of [[], upgradeLines]) {
      const text = await exchange(head("GET /a\tb HTTP/1.1", ["Host: localhost", ...more]), "\r\n\r\n");
      expect(text).toMatch(/^HTTP\/1\.1 400 /);
      expect(got).toBe("");
    }
  });
});

describe("answers", () => {
  test("names keep their case, and repeated headers stay apart", async () => {
    answer = [
      "HTTP/1.1 299 Very \xe9 Fine",
      "X-MiXed: One",
      "x-mixed: two",
      "SET-COOKIE: a=1",
      "Set-Cookie: b=2",
      "content-LENGTH: 2",
      "",
      "ok",
    ].join("\r\n");
    const text = await exchange(head("GET / HTTP/1.1", ["Host: localhost"]), "\r\n\r\nok");
    expect(text).toMatch(/^HTTP\/1\.1 299 Very \xe9 Fine\r\n/);
    const expected = ["X-MiXed: One", "x-mixed: two", "SET-COOKIE: a=1", "Set-Cookie: b=2", "content-LENGTH: 2"];
    expect(linesOf(text).slice(0, 5)).toEqual(expected);
  });

  test("Connection: content-length takes no framing away, also when an upgrade is refused", async () => {
    answer = "HTTP/1.1 403 No\r\nConnection: Content-Length, X-Own\r\nX-Own: 1\r\nContent-Length: 2\r\n\r\nno";
    for (const more of [[], upgradeLines]) {
      const text = await exchange(head("GET / HTTP/1.1", ["Host: localhost", ...more]), "\r\n\r\nno");
      expect(linesOf(text)).toContain("Content-Length: 2");
      expect(text).not.toContain("X-Own");
      got = "";
    }
  });

  test("an answer with very many headers passes whole", async () => {
    const many = Array.from({ length: 1_100 }, (_, index) => `a${index}:`);
    answer = ["HTTP/1.1 200 OK", ...many, "Content-Length: 2", "", "ok"].join("\r\n");
    const text = await exchange(head("GET / HTTP/1.1", ["Host: localhost"]), "\r\n\r\nok");
    expect(linesOf(text)).toContain("a1099: ");
    expect(linesOf(text)).toContain("Content-Length: 2");
  });

  test.each([
    [
      "switches to another protocol unasked",
      "HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
      false,
    ],
    ["switches to nothing", "HTTP/1.1 101 Switching\r\n\r\n", true],
    ["has a reason with a control character", "HTTP/1.1 200 a\x01b\r\nContent-Length: 2\r\n\r\nok", true],
    ["has a status that is none", "HTTP/1.1 000 No\r\nContent-Length: 2\r\n\r\nok", true],
    ["is not HTTP", "hello\r\n\r\n", true],
    ["has a header with a control character", "HTTP/1.1 200 OK\r\nX-A: \x01\r\nContent-Length: 2\r\n\r\nok", true],
  ])("an answer that %s is a 502 page at once", async (_name, bytes, alsoForUpgrades) => {
    answer = bytes;
    for (const more of alsoForUpgrades ? [[], upgradeLines] : [[]]) {
      const text = await exchange(head("GET / HTTP/1.1", ["Host: localhost", ...more]), "}");
      expect(text).toMatch(/^HTTP\/1\.1 502 Bad Gateway\r\n/);
      expect(text).toContain('"sandboxId":"iaaheads"');
      got = "";
    }
  });
});
