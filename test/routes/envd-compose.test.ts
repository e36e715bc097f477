import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { request } from "node:http";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { signatureOf } from "../../src/e2b/signatures.ts";
import { type LocalSandbox, startLocalSandbox } from "../support/guest/local-session.ts";

let sandbox: LocalSandbox;
const inFolder = (...names: string[]) => join(sandbox.folder, ...names);

beforeAll(async () => {
  sandbox = await startLocalSandbox();
});

afterAll(async () => {
  await sandbox[Symbol.asyncDispose]();
  expect(sandbox.plane.logged).toEqual([]);
});

async function compose(body: unknown, headers: Record<string, string> = sandbox.session.headers) {
  const response = await fetch(`${sandbox.plane.url}/files/compose`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });
  return { status: response.status, json: await response.json() };
}

describe("POST /files/compose", () => {
  test("joins files in order into one, with parents, and removes them", async () => {
    await Promise.all(["a", "b", "c"].map((name) => writeFile(inFolder(name), `${name}${name}`)));
    const answer = await compose({
      source_paths: [inFolder("b"), inFolder("a"), inFolder("c")],
      destination: inFolder("deep/er/all"),
    });
    const path = inFolder("deep/er/all");
    expect(answer).toEqual({ status: 200, json: { path, name: "all", type: "file" } });
    expect(await readFile(path, "utf8")).toBe("bbaacc");
    expect(await readdir(sandbox.folder)).toEqual(["deep"]);
  });

  test("into one of its own sources", async () => {
    await writeFile(inFolder("head"), "1");
    await writeFile(inFolder("tail"), "2");
    expect(
      await compose({ source_paths: [inFolder("head"), inFolder("tail")], destination: inFolder("head") }),
    ).toMatchObject({ status: 200 });
    expect(await readFile(inFolder("head"), "utf8")).toBe("12");
  });

  test("files that cannot be joined are named, and none is lost", async () => {
    await writeFile(inFolder("kept"), "kept");
    await mkdir(inFolder("folder"), { recursive: true });
    const missing = await compose({ source_paths: [inFolder("kept"), inFolder("no")], destination: inFolder("out") });
    expect(missing).toEqual({ status: 404, json: { code: 404, message: `path '${inFolder("no")}' does not exist` } });
    const folder = await compose({ source_paths: [inFolder("folder")], destination: inFolder("out") });
    expect(folder).toMatchObject({ status: 400, json: { code: 400 } });
    const nobody = await compose({ source_paths: ["x"], destination: "y", username: "nobody-here" });
    expect(nobody).toMatchObject({ status: 401, json: { message: expect.stringContaining("nobody-here") } });
    expect(await readFile(inFolder("kept"), "utf8")).toBe("kept");
    expect(await readdir(sandbox.folder)).not.toContain("out");
  });

  test.each([
    ["no body", ""],
    ["no JSON", "{"],
    ["no sources", { source_paths: [], destination: "x" }],
    ["no destination", { source_paths: ["x"] }],
    ["sources that are no list", { source_paths: "x", destination: "y" }],
    ["a NUL in a path", { source_paths: ["a\0b"], destination: "y" }],
  ])("%s is a 400", async (_name, body) => {
    expect(await compose(body)).toMatchObject({ status: 400, json: { code: 400, message: expect.any(String) } });
  });

  test("needs the token: a signature is for /files alone", async () => {
    const { "x-access-token": token = "", ...headers } = sandbox.session.headers;
    const body = { source_paths: ["x"], destination: "y" };
    expect(await compose(body, headers)).toMatchObject({ status: 401 });
    const signature = signatureOf({ path: "y", username: "", expiration: undefined }, "write", token);
    const query = new URLSearchParams({ path: "y", signature });
    const response = await fetch(`${sandbox.plane.url}/files/compose?${query}`, {
      method: "POST",
      headers: { ...headers, "content-type": "application/json" },
      body: JSON.stringify(body),
    });
    expect(response.status).toBe(401);
  });
});

describe("HEAD /files", () => {
  const head = (path: string, headers: Record<string, string>) =>
    new Promise<{ status: number | undefined; headers: Record<string, unknown>; body: string }>((resolve, reject) => {
      const asked = request(`${sandbox.plane.url}/files?${path}`, { method: "HEAD", headers }, (answer) => {
        let body = "";
        answer.on("data", (chunk) => {
          body += chunk;
        });
        answer.once("end", () => resolve({ status: answer.statusCode, headers: answer.headers, body }));
      });
      asked.once("error", reject);
      asked.end();
    });

  test("tells what GET would, without the bytes", async () => {
    await writeFile(inFolder("h.txt"), "0123456789");
    const path = `path=${inFolder("h.txt")}`;
    const { headers } = sandbox.session;
    expect(await head(path, headers)).toMatchObject({
      status: 200,
      headers: { "content-length": "10", "content-type": "text/plain; charset=utf-8" },
      body: "",
    });
    expect(await head(path, { ...headers, range: "bytes=2-3" })).toMatchObject({
      status: 206,
      headers: { "content-length": "2", "content-range": "bytes 2-3/10" },
    });
    expect(await head(path, { ...headers, "if-none-match": "*" })).toMatchObject({ status: 304 });
    expect(await head(path, { ...headers, "accept-encoding": "gzip" })).toMatchObject({
      status: 200,
      headers: { "content-encoding": "gzip" },
    });
    expect(await head(`path=${inFolder("none")}`, headers)).toMatchObject({ status: 404 });
  });

  test("takes the signature of a download, not of an upload", async () => {
    const path = inFolder("h.txt");
    const sign = (operation: "read" | "write") =>
      signatureOf({ path, username: "", expiration: undefined }, operation, sandbox.session.accessToken);
    expect(await head(`${new URLSearchParams({ path, signature: sign("read") })}`, {})).toMatchObject({ status: 200 });
    expect(await head(`${new URLSearchParams({ path, signature: sign("write") })}`, {})).toMatchObject({ status: 401 });
  });
});
