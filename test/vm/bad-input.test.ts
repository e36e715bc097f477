/** Bad input: wrong requests of every known kind, to a real daemon. Each gets a clear answer and leaks nothing. */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { envelope } from "../support/clients/connect-frames.ts";
import { ask, type RawAnswer, type RawRequest, sendAndCut } from "../support/clients/raw-http.ts";
import { createSandbox, sharedDaemon, skipReason } from "../support/clients/sdk.ts";

const json = { "content-type": "application/json" };
const stream = { "content-type": "application/connect+json", "connect-protocol-version": "1" };
const unknownId = "iaa000000000000000000";

describe.skipIf(skipReason)("bad input", () => {
  let sandbox: Awaited<ReturnType<typeof createSandbox>>;
  let token = "";
  let before: { descriptors: number; children: number };

  beforeAll(async () => {
    sandbox = await createSandbox({ timeoutMs: 600_000 });
    const answer = await control(`/sandboxes/${sandbox.sandbox.sandboxId}/connect`, post({ timeout: 600 }));
    token = (answer.json as { envdAccessToken: string }).envdAccessToken;
    await sandbox.sandbox.files.write("/tmp/x", "x");
    before = await settledResources();
  });
  afterAll(() => sandbox?.[Symbol.asyncDispose]());

  const control = (path: string, { headers, ...request }: RawRequest = {}): Promise<RawAnswer> =>
    ask(`${sharedDaemon().url}${path}`, { ...request, headers: { "x-api-key": sharedDaemon().apiKey, ...headers } });
  const data = (path: string, { headers, ...request }: RawRequest = {}): Promise<RawAnswer> => {
    const { sandboxId } = sandbox.sandbox;
    const identity = { "e2b-sandbox-id": sandboxId, "e2b-sandbox-port": "49983", "x-access-token": token };
    return ask(`${sharedDaemon().url}${path}`, { ...request, headers: { ...identity, ...headers } });
  };
  const post = (body: unknown): RawRequest => ({
    method: "POST",
    headers: json,
    body: typeof body === "string" ? body : JSON.stringify(body),
  });

  function resources() {
    const { pid } = sharedDaemon();
    const children = readdirSync(`/proc/${pid}/task`).flatMap((task) =>
      readChildren(`/proc/${pid}/task/${task}/children`),
    );
    return { descriptors: countDescriptors(pid), children: children.length };
  }
  /** Resources at rest, because a network is started ahead after a create, and cut connections are closed later. */
  async function settledResources() {
    let latest = resources();
    for (let same = 0; same < 3; same++) {
      await new Promise((resolve) => setTimeout(resolve, 1_000));
      const now = resources();
      if (now.descriptors !== latest.descriptors) same = 0;
      latest = now;
    }
    return latest;
  }

  describe("the control plane", () => {
    test.each<[string, string, RawRequest, number, RegExp]>([
      ["an unknown template", "/sandboxes", post({ templateID: "nowhere" }), 404, /template 'nowhere' not found/],
      ["an unknown tag", "/sandboxes", post({ templateID: "base:old" }), 404, /tag 'old' does not exist/],
      ["a template's name that is none", "/v2/sandboxes", post({ templateID: "a/b/c" }), 400, /[Ii]nvalid template/],
      ["no template", "/sandboxes", post({}), 400, /templateID/],
      ["malformed JSON", "/sandboxes", post('{"templateID": "base"'), 400, /not valid JSON/],
      ["JSON that is no object", "/sandboxes", post("[1]"), 400, /validation error/],
      ["a time-out of the wrong type", "/sandboxes", post({ templateID: "base", timeout: "9" }), 400, /timeout/],
      ["a negative time-out", "/sandboxes", post({ templateID: "base", timeout: -1 }), 400, /[Tt]imeout/],
      ["metadata that is no text", "/sandboxes", post({ templateID: "base", metadata: { a: 1 } }), 400, /metadata/],
      ["a body of 2 MiB", "/sandboxes", post(`"${"x".repeat(2 ** 21)}"`), 413, /too large/],
      [
        "a body that is no JSON",
        "/sandboxes",
        { method: "POST", headers: { "content-type": "text/plain" }, body: "x" },
        415,
        /JSON/,
      ],
      ["an unknown sandbox", `/sandboxes/${unknownId}`, {}, 404, /doesn't exist/],
      ["an unknown sandbox to kill", `/sandboxes/${unknownId}`, { method: "DELETE" }, 404, /doesn't exist/],
      [
        "an unknown sandbox to connect to",
        `/sandboxes/${unknownId}/connect`,
        post({ timeout: 5 }),
        404,
        /doesn't exist/,
      ],
      ["an unknown sandbox's time", `/sandboxes/${unknownId}/timeout`, post({ timeout: 5 }), 404, /doesn't exist/],
      ["an id that cannot be one", "/sandboxes/..%2f..%2fetc", {}, 400, /Invalid sandbox ID/],
      ["a path that cannot be decoded", "/sandboxes/%zz", {}, 400, /./],
      ["an unknown route", "/no/such/route", {}, 404, /There is no GET/],
      ["a limit that is no number", "/v2/sandboxes?limit=many", {}, 400, /limit/],
      ["a page that never was", "/v2/sandboxes?nextToken=zzz", {}, 400, /[Tt]oken/],
    ])("%s is refused", async (_, path, request, status, message) => {
      const answer = await control(path, request);
      expect([answer.status, answer.json]).toEqual([status, { code: status, message: expect.stringMatching(message) }]);
    });

    test.each([
      ["no key", {}],
      ["an empty key", { "x-api-key": "" }],
      ["another key", { "x-api-key": `e2b_${"0".repeat(40)}` }],
      ["the key in the wrong place", { authorization: "Bearer x" }],
    ])("a request with %s is refused", async (_, headers) => {
      const answer = await ask(`${sharedDaemon().url}/v2/sandboxes`, { headers });
      expect([answer.status, answer.json]).toEqual([401, { code: 401, message: expect.any(String) }]);
    });
  });

  describe("files", () => {
    const at = (path: string) => `/files?path=${path}`;
    const octets = { method: "POST", headers: { "content-type": "application/octet-stream" }, body: "x" };
    test.each<[string, string, RawRequest, number]>([
      ["a file that is not there", at("/nowhere"), {}, 404],
      ["a folder", at("/tmp"), {}, 400],
      ["a NUL in a path to read", at("/tmp/a%00b"), {}, 400],
      ["a NUL in a path to write", at("/tmp/a%00b"), octets, 400],
      ["a path that is too long", at(`/tmp/${"d/".repeat(3000)}x`), {}, 400],
      ["a name that is too long", at(`/tmp/${"n".repeat(300)}`), octets, 400],
      ["another user's home", at("~root/x"), {}, 400],
      ["a user that does not exist", `${at("/tmp/x")}&username=nobody-here`, {}, 401],
      ["a file as a folder", at("/tmp/x/y"), octets, 400],
      ["no path", "/files", octets, 400],
      ["a content type that is none", at("/tmp/y"), { ...octets, headers: { "content-type": "text/x-odd" } }, 400],
      ["a form that is none", at("/tmp/y"), { ...octets, headers: { "content-type": "multipart/form-data" } }, 400],
      [
        "gzip that is none",
        at("/tmp/y"),
        { ...octets, headers: { ...octets.headers, "content-encoding": "gzip" } },
        400,
      ],
      ["a wrong token", at("/tmp/x"), { headers: { "x-access-token": "wrong" } }, 401],
      ["a sandbox that is not there", at("/tmp/x"), { headers: { "e2b-sandbox-id": unknownId } }, 502],
      ["a port that is none", at("/tmp/x"), { headers: { "e2b-sandbox-port": "99999" } }, 400],
    ])("%s is refused", async (_, path, request, status) => {
      const answer = await data(path, request);
      expect([answer.status, answer.body.toString()]).toEqual([status, expect.stringMatching(/./)]);
    });

    test("uploads that stop in the middle leave no file open", async () => {
      const { sandboxId } = sandbox.sandbox;
      const head = (path: string, extra: string) =>
        `POST /files?path=${path} HTTP/1.1\r\nHost: localhost\r\nE2b-Sandbox-Id: ${sandboxId}\r\nE2b-Sandbox-Port: 49983\r\n` +
        `X-Access-Token: ${token}\r\n${extra}\r\n\r\n`;
      const octetsHead = (path: string) =>
        head(path, "Content-Type: application/octet-stream\r\nContent-Length: 1000000000");
      const { url } = sharedDaemon();
      await Promise.all([
        ...Array.from({ length: 10 }, (_, n) =>
          sendAndCut(url, octetsHead(`/tmp/half${n}`) + "x".repeat(100_000), 50 + 20 * n),
        ),
        sendAndCut(
          url,
          `${head("/tmp/chunked", "Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked")}ff\r\nx`,
          100,
        ),
        sendAndCut(
          url,
          `${head("/tmp/form", "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 999")}--b\r\n`,
          100,
        ),
        sendAndCut(url, head("/tmp/nothing", "Content-Type: application/octet-stream\r\nContent-Length: 9"), 100),
      ]);
      const open = "sudo ls -l /proc/1/fd | grep -c /tmp/ || true";
      await expect.poll(async () => (await sandbox.sandbox.commands.run(open)).stdout).toBe("0\n");
    });
  });

  describe("RPCs", () => {
    const start = { process: { cmd: "/bin/true", args: [] } };
    const call = (method: string, body: string | Uint8Array, headers: Record<string, string> = stream) =>
      data(`/process.Process/${method}`, { method: "POST", headers, body });
    /** The code in the last frame of a stream, or in a plain answer. */
    const codeOf = ({ status, body, json: plain }: RawAnswer): unknown => {
      if (status !== 200) return (plain as { code?: unknown } | undefined)?.code ?? status;
      const at = body.indexOf('{"error"');
      return at < 0
        ? body.toString()
        : (JSON.parse(body.subarray(at).toString()) as { error: { code: unknown } }).error.code;
    };
    const lying = envelope(start);
    lying.writeUInt32BE(5_000_000, 1);
    const endless = envelope(start);
    endless.writeUInt32BE(0xffffffff, 1);

    test.each<[string, string, string | Uint8Array, string]>([
      ["a frame that announces more than comes", "Start", lying, "invalid_argument"],
      ["a frame of 4 GiB", "Start", endless, "resource_exhausted"],
      ["half a frame's head", "Start", Buffer.from([0, 0]), "invalid_argument"],
      ["nothing", "Start", "", "unimplemented"],
      ["a frame that is no JSON", "Start", envelope("{nonsense"), "invalid_argument"],
      ["a message with wrong types", "Start", envelope({ process: 7 }), "invalid_argument"],
      ["a compressed frame that was not agreed on", "Start", envelope(start, 1), "internal"],
      ["two messages", "Start", Buffer.concat([envelope(start), envelope(start)]), "unimplemented"],
      ["an unknown method", "Explode", envelope(start), "404"],
      ["a command with a NUL", "Start", envelope({ process: { cmd: "/bin/t\u0000rue" } }), "invalid_argument"],
      [
        "a working directory that is not there",
        "Start",
        envelope({ process: { cmd: "/bin/true", cwd: "/nowhere" } }),
        "invalid_argument",
      ],
      ["a process that is not there", "Connect", envelope({ process: { pid: 999_999 } }), "not_found"],
    ])("%s is refused", async (_, method, body, code) => {
      expect(String(codeOf(await call(method, body)))).toBe(code);
    });

    test("a unary message of 40 MiB is refused", async () => {
      const answer = await call("SendInput", `"${"x".repeat(40 * 2 ** 20)}"`, json).catch((error: Error) => error);
      // The daemon reads no further, so the client sees the answer or a connection that ends.
      if (!(answer instanceof Error)) expect(codeOf(answer)).toBe("resource_exhausted");
    });

    test("streams that clients cut at any moment leave no command behind", async () => {
      const { sandboxId } = sandbox.sandbox;
      const body = envelope({ process: { cmd: "/bin/sh", args: ["-c", "yes | head -c 3000000"] } });
      const head =
        `POST /process.Process/Start HTTP/1.1\r\nHost: localhost\r\nE2b-Sandbox-Id: ${sandboxId}\r\nE2b-Sandbox-Port: 49983\r\n` +
        `X-Access-Token: ${token}\r\nContent-Type: application/connect+json\r\nConnect-Protocol-Version: 1\r\n` +
        `Content-Length: ${body.length}\r\n\r\n`;
      const bytes = Buffer.concat([Buffer.from(head), body]);
      await Promise.all(Array.from({ length: 10 }, (_, n) => sendAndCut(sharedDaemon().url, bytes, 5 + 20 * n)));
      await expect.poll(() => sandbox.sandbox.commands.list()).toEqual([]);
    });
  });

  test.each([
    ["no HTTP at all", "\u0016\u0003\u0001 hello\r\n\r\n", /^HTTP\/1\.1 400 /],
    ["a header of 100 KB", `GET /health HTTP/1.1\r\nX: ${"x".repeat(100_000)}\r\n\r\n`, /^HTTP\/1\.1 431 /],
    [
      "another machine's name",
      "GET /health HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
      /^HTTP\/1\.1 421 /,
    ],
    [
      "two lengths",
      "POST /sandboxes HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
      /^HTTP\/1\.1 400 /,
    ],
  ])("a connection with %s is refused", async (_, bytes, answer) => {
    expect(await sendAndCut(sharedDaemon().url, bytes, 60_000)).toMatch(answer);
  });

  test("the daemon and the sandbox still serve, with no more descriptors and processes than before", async () => {
    expect((await control("/health")).status).toBe(204);
    expect((await sandbox.sandbox.commands.run("echo fine")).stdout).toBe("fine\n");
    await expect.poll(() => resources().children).toBeLessThanOrEqual(before.children);
    await expect.poll(() => resources().descriptors).toBeLessThanOrEqual(before.descriptors);
  });
});

/** Open descriptors, without connections that clients hold open: those are theirs to close. */
function countDescriptors(pid: number): number {
  const tables = ["tcp", "tcp6"].map((name) => readFileSync(`/proc/${pid}/net/${name}`, "utf8"));
  const rows = tables.flatMap((table) => table.split("\n").map((line) => line.trim().split(/\s+/)));
  const established = new Set(rows.filter((row) => row[3] === "01").map((row) => `socket:[${row[9]}]`));
  const links = readdirSync(`/proc/${pid}/fd`).map((fd) => readLink(`/proc/${pid}/fd/${fd}`));
  return links.filter((link) => link !== undefined && !established.has(link)).length;
}

function readLink(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined; // The descriptor was closed meanwhile.
  }
}

function readChildren(path: string): string[] {
  try {
    return readFileSync(path, "utf8").split(" ").filter(Boolean);
  } catch {
    return []; // The thread has ended.
  }
}
