/** The files and headers of the console. `test/sdk/console.test.ts` tests the page in a browser. */
import { readdirSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { openControlPlane } from "../../support/daemon/control-plane.ts";

const folder = new URL("../../../routes/console/page/", import.meta.url);
const keyless = { "x-api-key": undefined };

test("the page and everything it names are served without a key, by the daemon alone", async () => {
  await using plane = openControlPlane();
  const page = await plane.call("GET", "/", undefined, keyless);
  expect([page.status, page.headers["content-type"]]).toEqual([200, "text/html; charset=utf-8"]);
  const named = [...page.text.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, path]) => path ?? "");
  const scripts = readdirSync(folder).filter((name) => name.endsWith(".js"));
  const imported = scripts.flatMap((name) => {
    const text = readFileSync(new URL(name, folder), "utf8");
    return [...text.matchAll(/from "\.\/([^"]+)"/g)].map(([, path]) => `/console/${path}`);
  });
  expect(named.length).toBeGreaterThan(3);
  expect(imported.length).toBeGreaterThan(8);
  for (const path of new Set([...named, ...imported])) {
    const { status, headers } = await plane.call("GET", path, undefined, keyless);
    expect([path, status]).toEqual([path, 200]);
    expect(headers["content-type"]).toMatch(/^(text\/css|text\/javascript|application\/javascript|image\/svg\+xml)/);
  }
});

test("no page may frame it, and nothing but the daemon's own files runs in it", async () => {
  await using plane = openControlPlane();
  const { headers, text } = await plane.call("GET", "/", undefined, keyless);
  const policy = String(headers["content-security-policy"]);
  for (const directive of ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "connect-src 'self'"]) {
    expect(policy.split("; ")).toContain(directive);
  }
  expect(headers).toMatchObject({
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
  });
  expect(text).not.toMatch(/<script(?![^>]* src=)|<style|\son\w+=|\sstyle=|https?:\/\//);
});

test("only files of the page are served, and its name does not open the rest of the API", async () => {
  await using plane = openControlPlane();
  for (const path of [
    "/console/..%2fserver.ts",
    "/console/%2e%2e/server.js",
    "/console/",
    "/console/vendor/package.json",
  ]) {
    expect((await plane.call("GET", path, undefined, keyless)).status).toBe(404);
  }
  expect((await plane.call("GET", "/capacity", undefined, keyless)).status).toBe(401);
});

test("no source of the page parses text as HTML or runs it", () => {
  for (const name of readdirSync(folder).filter((file) => file.endsWith(".js"))) {
    const text = readFileSync(new URL(name, folder), "utf8");
    expect([name, /innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function/.test(text)]).toEqual([
      name,
      false,
    ]);
  }
});
