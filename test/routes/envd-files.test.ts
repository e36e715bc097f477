import { createHash } from "node:crypto";
import { once } from "node:events";
import { chmod, mkdir, readdir, readFile, stat, symlink, writeFile } from "node:fs/promises";
import { request as httpRequest } from "node:http";
import { connect } from "node:net";
import { join } from "node:path";
import { Readable } from "node:stream";
import { gunzipSync, gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { signatureOf } from "../../src/e2b/signatures.ts";
import { DomainError } from "../../src/errors.ts";
import type { GuestAgent } from "../../src/guest/agent.ts";
import { abandonUpload } from "../support/clients/connect-frames.ts";
import { serveDataPlane, TestSession } from "../support/daemon/data-plane.ts";
import { type LocalSandbox, startLocalSandbox } from "../support/guest/local-session.ts";

type Body = NonNullable<RequestInit["body"]>;

let sandbox: LocalSandbox;
let url: string;
let headers: Record<string, string>;
const inFolder = (...names: string[]) => join(sandbox.folder, ...names);
const filesUrl = (path: string, more: Record<string, string> = {}) =>
  `${url}/files?${new URLSearchParams({ path, ...more })}`;
const download = (path: string, more: Record<string, string> = {}) =>
  fetch(filesUrl(path), { headers: { ...headers, ...more } });
const upload = (path: string, body: Body, more: Record<string, string> = {}) =>
  fetch(filesUrl(path), {
    method: "POST",
    headers: { ...headers, "content-type": "application/octet-stream", ...more },
    body,
    duplex: "half",
  } as RequestInit);
const post = (query: string, body: Body, more: Record<string, string> = {}) =>
  fetch(`${url}/files${query}`, { method: "POST", headers: { ...headers, ...more }, body });

beforeAll(async () => {
  sandbox = await startLocalSandbox();
  url = sandbox.plane.url;
  headers = sandbox.session.headers;
});

afterAll(async () => {
  await sandbox[Symbol.asyncDispose]();
  expect(sandbox.plane.logged).toEqual([]);
});

describe("GET /files", () => {
  test("gives the bytes with their length, type and name", async () => {
    await writeFile(inFolder("a.txt"), "hello");
    const response = await download(inFolder("a.txt"));
    expect(response.status).toBe(200);
    expect(Object.fromEntries(response.headers)).toMatchObject({
      "content-length": "5",
      "content-type": "text/plain; charset=utf-8",
      "content-disposition": "inline; filename=a.txt",
      vary: "Accept-Encoding",
      "access-control-allow-origin": "*",
    });
    expect(await response.text()).toBe("hello");
  });

  test("an empty file has Content-Length 0, with every encoding", async () => {
    await writeFile(inFolder("empty"), "");
    for (const encoding of ["identity", "gzip"]) {
      const response = await download(inFolder("empty"), { "accept-encoding": encoding });
      expect(response.headers.get("content-length")).toBe("0");
      expect(await response.text()).toBe("");
    }
  });

  test.each(["/proc/version", "/proc/kallsyms", "/sys/kernel/mm/transparent_hugepage/enabled"])(
    "%s, whose size the kernel makes up, is read whole",
    async (path) => {
      const text = await readFile(path, "utf8");
      for (const encoding of ["identity", "gzip"]) {
        const response = await download(path, { "accept-encoding": encoding });
        expect([response.status, (await response.text()) === text]).toEqual([200, true]);
      }
    },
  );

  test("compresses for a client that asks for gzip alone, refuses what it cannot do", async () => {
    const text = "line\n".repeat(50_000);
    await writeFile(inFolder("z.txt"), text);
    const zipped = await rawGet(inFolder("z.txt"), { "accept-encoding": "gzip" });
    expect(zipped.headers["content-encoding"]).toBe("gzip");
    expect(gunzipSync(zipped.body).toString()).toBe(text);
    expect((await download(inFolder("z.txt"), { "accept-encoding": "br, identity;q=0" })).status).toBe(406);
  });

  test("ranges and conditions", async () => {
    await writeFile(inFolder("r.bin"), "0123456789");
    const part = await download(inFolder("r.bin"), { range: "bytes=2-4" });
    expect([part.status, part.headers.get("content-range"), await part.text()]).toEqual([206, "bytes 2-4/10", "234"]);
    const beyond = await download(inFolder("r.bin"), { range: "bytes=10-" });
    expect([beyond.status, beyond.headers.get("content-range")]).toEqual([416, "bytes */10"]);
    expect(beyond.headers.get("content-disposition")).toBeNull();
    const modified = part.headers.get("last-modified") ?? "";
    const unchanged = await download(inFolder("r.bin"), { "if-modified-since": modified });
    expect([unchanged.status, await unchanged.text()]).toEqual([304, ""]);
  });

  test("a path that is no readable file is refused in E2B's words", async () => {
    await mkdir(inFolder("dir"));
    const missing = await download(inFolder("no"));
    expect(missing.status).toBe(404);
    expect(await missing.json()).toEqual({ code: 404, message: `path '${inFolder("no")}' does not exist` });
    for (const more of [{}, { range: "bytes=0-1" }]) {
      const directory = await download(inFolder("dir"), more);
      expect(directory.status).toBe(400);
      expect(await directory.json()).toEqual({ code: 400, message: `path '${inFolder("dir")}' is a directory` });
    }
    const nobody = await fetch(filesUrl(inFolder("a.txt"), { username: "nobody-here" }), { headers });
    expect(nobody.status).toBe(401);
    expect(((await nobody.json()) as { message: string }).message).toContain("error looking up user 'nobody-here'");
  });

  test("unicode names and links", async () => {
    await writeFile(inFolder("grüße 世界.txt"), "ü");
    await symlink(inFolder("grüße 世界.txt"), inFolder("link"));
    const response = await download(inFolder("grüße 世界.txt"));
    expect(response.headers.get("content-disposition")).toContain("filename*=utf-8''gr%C3%BC");
    expect(await response.text()).toBe("ü");
    expect(await (await download(inFolder("link"))).text()).toBe("ü");
  });

  test("a client that leaves in the middle leaves nothing open", async () => {
    await writeFile(inFolder("big"), Buffer.alloc(32 * 1024 * 1024));
    const before = await sandbox.openFiles();
    for (let i = 0; i < 20; i++) {
      const socket = connect(sandbox.plane.port, "127.0.0.1");
      const head = Object.entries(headers)
        .map(([name, value]) => `${name}: ${value}\r\n`)
        .join("");
      socket.write(`GET /files?path=${inFolder("big")} HTTP/1.1\r\nhost: localhost\r\n${head}\r\n`);
      await once(socket, "data");
      socket.destroy();
    }
    await expect.poll(() => sandbox.openFiles()).toBe(before);
    expect((await download(inFolder("a.txt"))).status).toBe(200);
  });

  test("a slow reader holds up no other, and gets every byte", async () => {
    const response = await download(inFolder("big"));
    const reader = response.body?.getReader();
    await reader?.read();
    for (let i = 0; i < 10; i++) expect(await (await download(inFolder("a.txt"))).text()).toBe("hello");
    let total = 0;
    reader?.releaseLock();
    for await (const chunk of response.body ?? []) total += chunk.byteLength;
    expect(total).toBeGreaterThan(31 * 1024 * 1024);
  });
});

describe("POST /files", () => {
  test("octet-stream: creates, truncates, makes parents, answers with the entry", async () => {
    const path = inFolder("new", "deep", "b.bin");
    const response = await upload(path, "first, longer");
    expect(response.status).toBe(200);
    expect(await response.json()).toEqual([{ path, name: "b.bin", type: "file" }]);
    expect((await upload(path, "short")).status).toBe(200);
    expect(await readFile(path, "utf8")).toBe("short");
    expect((await upload(path, "")).status).toBe(200);
    expect((await stat(path)).size).toBe(0);
  });

  test("gzip is unpacked; broken gzip and other encodings are refused", async () => {
    const path = inFolder("gz");
    expect((await upload(path, new Uint8Array(gzipSync("packed")), { "content-encoding": "gzip" })).status).toBe(200);
    expect(await readFile(path, "utf8")).toBe("packed");
    const broken = await upload(path, "not gzip at all", { "content-encoding": "gzip" });
    expect([broken.status, await broken.json()]).toEqual([400, { code: 400, message: "the body is not valid gzip" }]);
    const cut = new Uint8Array(gzipSync(Buffer.alloc(100_000, "x")).subarray(0, 60));
    expect((await upload(path, cut, { "content-encoding": "gzip" })).status).toBe(400);
    expect((await upload(path, "x", { "content-encoding": "br" })).status).toBe(400);
  });

  test("multipart: by query path, or several by their full file names", async () => {
    const one = new FormData();
    one.append("file", new Blob(["content"]), "ignored.txt");
    const single = await post(`?path=${inFolder("one.txt")}`, one);
    expect(await single.json()).toEqual([{ path: inFolder("one.txt"), name: "one.txt", type: "file" }]);
    const many = new FormData();
    many.append("other", "a field that means nothing");
    many.append("ignored", new Blob(["x"]), inFolder("ignored"));
    many.append("file", new Blob(["1"]), inFolder("many", "ü 1.txt"));
    many.append("file", new Blob([]), inFolder("many", "2.txt"));
    const response = await post("", many);
    expect(((await response.json()) as { path: string }[]).map(({ path }) => path)).toEqual([
      inFolder("many", "ü 1.txt"),
      inFolder("many", "2.txt"),
    ]);
    expect(await readFile(inFolder("many", "ü 1.txt"), "utf8")).toBe("1");
    expect(await readdir(inFolder("many"))).toHaveLength(2);
    expect(await readdir(sandbox.folder)).not.toContain("ignored");
  });

  test("multipart: a file of a path needs no name, and what is not a file may be of any size", async () => {
    const form = new FormData();
    form.append("other", "x".repeat(100_000));
    form.append("file", "typed in");
    const response = await post(`?path=${inFolder("nameless")}`, form);
    expect(await response.json()).toEqual([{ path: inFolder("nameless"), name: "nameless", type: "file" }]);
    expect(await readFile(inFolder("nameless"), "utf8")).toBe("typed in");
    const nowhere = new FormData();
    nowhere.append("file", "typed in");
    expect((await post("", nowhere)).status).toBe(400);
  });

  test("multipart: more than a thousand files at once", async () => {
    const form = new FormData();
    for (let i = 0; i < 1_200; i++) form.append("file", new Blob([String(i)]), inFolder("thousand", String(i)));
    expect(await (await post("", form)).json()).toHaveLength(1_200);
    expect(await readdir(inFolder("thousand"))).toHaveLength(1_200);
  });

  test("the same target twice is refused", async () => {
    const form = new FormData();
    form.append("file", new Blob(["1"]), inFolder("same"));
    form.append("file", new Blob(["2"]), inFolder("x", "..", "same"));
    const response = await post("", form);
    expect(response.status).toBe(400);
    expect(((await response.json()) as { message: string }).message).toContain(
      "you cannot upload multiple files to the same path",
    );
  });

  test("metadata headers replace the file's attributes", async () => {
    const path = inFolder("meta");
    const first = await upload(path, "x", { "x-metadata-Author": "me", "x-metadata-b": "2" });
    expect(await first.json()).toEqual([{ path, name: "meta", type: "file", metadata: { author: "me", b: "2" } }]);
    const second = await upload(path, "x", { "x-metadata-b": "3" });
    expect(await second.json()).toEqual([{ path, name: "meta", type: "file", metadata: { b: "3" } }]);
    expect((await upload(path, "x", { "x-metadata-c": "v".repeat(4_100) })).status).toBe(400);
  });

  test("bad requests", async () => {
    expect((await post("", "x", { "content-type": "application/octet-stream" })).status).toBe(400);
    expect((await post(`?path=${inFolder("j")}`, "{}", { "content-type": "application/json" })).status).toBe(400);
    expect((await post(`?path=${inFolder("j")}`, "x", { "content-type": "multipart/form-data" })).status).toBe(400);
    expect((await post("?path=a&path=b", "x", { "content-type": "application/octet-stream" })).status).toBe(400);
    const directory = await upload(sandbox.folder, "x");
    expect([directory.status, await directory.json()]).toEqual([
      400,
      { code: 400, message: `path is a directory: ${sandbox.folder}` },
    ]);
    const big = await upload(sandbox.folder, new Uint8Array(8 * 1024 * 1024));
    expect(big.status).toBe(400);
    const boundary = "multipart/form-data; boundary=b";
    const cut = await post(
      "",
      `--b\r\ncontent-disposition: form-data; name="file"; filename="${inFolder("cut")}"\r\n\r\nhalf`,
      {
        "content-type": boundary,
      },
    );
    expect(cut.status).toBe(400);
  });

  test("no space is a 507, and the rest of the upload is read so that the client sees it", async () => {
    const full = {
      write: async () => {
        throw new DomainError("disk_pressure", "write: No space left on device", { status: "no_space" });
      },
    };
    const session = new TestSession("iaafull", full as unknown as GuestAgent);
    await using plane = await serveDataPlane([session]);
    const response = await fetch(`${plane.url}/files?path=x`, {
      method: "POST",
      headers: { ...session.headers, "content-type": "application/octet-stream" },
      body: new Uint8Array(8 * 1024 * 1024),
    });
    expect([response.status, await response.json()]).toEqual([
      507,
      { code: 507, message: "not enough disk space available" },
    ]);
  });

  test("an upload that its client abandons ends in the guest, too", async () => {
    const before = await sandbox.openFiles();
    const octets = { ...headers, "content-type": "application/octet-stream" };
    for (let i = 0; i < 20; i++) await abandonUpload(filesUrl(inFolder(`gone-${i}`)), octets, Buffer.alloc(100_000));
    const form = { ...headers, "content-type": "multipart/form-data; boundary=b" };
    const head = `--b\r\ncontent-disposition: form-data; name="file"; filename="${inFolder("gone-part")}"\r\n\r\n`;
    await abandonUpload(`${url}/files`, form, Buffer.concat([Buffer.from(head), Buffer.alloc(100_000)]));
    await expect.poll(() => sandbox.openFiles()).toBe(before);
    expect((await upload(inFolder("after"), "still works")).status).toBe(200);
    expect(await readFile(inFolder("after"), "utf8")).toBe("still works");
  });
});

describe("256 MiB", () => {
  const size = 256 * 1024 * 1024;
  const chunk = Buffer.alloc(1024 * 1024, "0123456789abcdef");

  test("go in and come out through flat memory", async () => {
    const path = inFolder("huge");
    const source = () => Readable.toWeb(Readable.from(repeat(chunk, size / chunk.byteLength))) as ReadableStream;
    const before = process.memoryUsage.rss();
    const seen = { peak: before };
    const watch = setInterval(() => {
      seen.peak = Math.max(seen.peak, process.memoryUsage.rss());
    }, 20);
    expect((await upload(path, source() as Body)).status).toBe(200);
    const sent = createHash("sha256");
    for (let i = 0; i < size / chunk.byteLength; i++) sent.update(chunk);
    const received = createHash("sha256");
    const response = await download(path);
    expect(response.headers.get("content-length")).toBe(String(size));
    for await (const part of response.body ?? []) received.update(part);
    clearInterval(watch);
    expect(received.digest("hex")).toBe(sent.digest("hex"));
    // Client and server are both in this process; a body held whole would add at least its size.
    expect(seen.peak - before).toBeLessThan(160 * 1024 * 1024);
  });
});

describe("access to files", () => {
  const bare = (query: Record<string, string>, init: RequestInit = {}) =>
    fetch(`${url}/files?${new URLSearchParams(query)}`, init);
  const message = async (response: Response) => [
    response.status,
    ((await response.json()) as { message: string }).message,
  ];

  test("a signed URL needs no id and no token", async () => {
    const path = inFolder("signed.txt");
    const { accessToken } = sandbox.session;
    const write = signatureOf({ path, username: "", expiration: undefined }, "write", accessToken);
    const written = await bare(
      { path, signature: write },
      { method: "POST", headers: { "content-type": "application/octet-stream" }, body: "by signature" },
    );
    expect(written.status).toBe(200);
    const expiration = String(Math.floor(Date.now() / 1000) + 60);
    const read = signatureOf({ path, username: "root", expiration }, "read", accessToken);
    const response = await bare({ path, username: "root", signature: read, signature_expiration: expiration });
    expect(await response.text()).toBe("by signature");
    expect(await message(await bare({ path, signature: write }))).toEqual([401, "invalid signature"]);
  });

  test("an expired signature is refused in the words that clients compare", async () => {
    const path = inFolder("signed.txt");
    const signed = { path, username: "", expiration: "1000" };
    const signature = signatureOf(signed, "read", sandbox.session.accessToken);
    const response = await bare({ path, signature, signature_expiration: "1000" });
    expect(await response.json()).toEqual({ code: 401, message: "signature is already expired" });
  });

  test("with an id: a wrong token decides, without one a signature is missing", async () => {
    const { "x-access-token": _, ...named } = headers;
    const get = (more: Record<string, string>) => fetch(filesUrl("x"), { headers: { ...named, ...more } });
    expect(await message(await get({}))).toEqual([401, "missing signature query parameter"]);
    expect(await message(await get({ "x-access-token": "wrong" }))).toEqual([
      401,
      "access token present in header but does not match",
    ]);
  });

  test("files are isolated from the daemon's own origin", async () => {
    await writeFile(inFolder("page.html"), "<script>alert(1)</script>");
    await chmod(inFolder("page.html"), 0o644);
    const response = await download(inFolder("page.html"));
    expect(response.headers.get("content-security-policy")).toBe("sandbox");
    expect(response.headers.get("x-content-type-options")).toBe("nosniff");
  });
});

async function* repeat(chunk: Buffer, times: number): AsyncGenerator<Buffer> {
  for (let i = 0; i < times; i++) yield chunk;
}

/** Without the decompression that `fetch` does. */
async function rawGet(path: string, more: Record<string, string>) {
  const asked = httpRequest(filesUrl(path), { headers: { ...headers, ...more } });
  asked.end();
  const [response] = await once(asked, "response");
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk);
  return { headers: response.headers, body: Buffer.concat(chunks) };
}
