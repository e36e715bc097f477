import type { IncomingHttpHeaders } from "node:http";
import { expect, test } from "vitest";
import { portClosed, renderRefusal, sandboxNotFound, tooManyConnections } from "../../routes/data/port-pages.ts";

const firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
const html = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

test("programs get E2B's JSON", () => {
  expect(renderRefusal(portClosed("iaa1", 3000), { "user-agent": "curl/8" })).toEqual({
    contentType: "application/json; charset=utf-8",
    body: '{"sandboxId":"iaa1","message":"The sandbox is running but port is not open","port":3000,"code":502}',
  });
  expect(renderRefusal(sandboxNotFound("iaa1"), {}).body).toBe(
    '{"sandboxId":"iaa1","message":"The sandbox was not found","code":502}',
  );
  expect(JSON.parse(renderRefusal(tooManyConnections("iaa1", 7), {}).body)).toMatchObject({ connectionLimit: 7 });
});

test("people get a page that names the sandbox and the port", () => {
  const { contentType, body } = renderRefusal(portClosed("iaa1", 3000), {
    "user-agent": firefox,
    accept: html,
    "sec-fetch-mode": "navigate",
  });
  expect(contentType).toBe("text/html; charset=utf-8");
  expect(body).toMatch(/^<html/);
  expect(body).toMatch(/no service running on port 3000.*iaa1.*<\/html>$/);
});

test.each<[IncomingHttpHeaders, string]>([
  [{ "user-agent": firefox }, "html"],
  [{ "user-agent": firefox, accept: "*/*" }, "html"],
  [{ "user-agent": firefox, accept: "application/json, text/html" }, "html"],
  [{ "user-agent": firefox, accept: "application/json" }, "json"],
  [{ "user-agent": firefox, "x-requested-with": "XMLHttpRequest" }, "json"],
  [{ "user-agent": firefox, accept: html, "sec-fetch-mode": "cors" }, "json"],
  [{ "user-agent": firefox, accept: html, "sec-fetch-mode": "no-cors" }, "json"],
  [{ "user-agent": firefox, accept: html, "sec-fetch-mode": "same-origin" }, "json"],
  [{ "user-agent": firefox, accept: html, "sec-fetch-mode": "websocket" }, "json"],
  [{ accept: html }, "json"],
  [{ "user-agent": "node", accept: html }, "json"],
])("%j is answered in %s", (headers, kind) => {
  expect(renderRefusal(portClosed("iaa1", 80), headers).contentType).toContain(kind);
});

test("no text of a refusal becomes markup", () => {
  const { body } = renderRefusal(
    { sandboxId: "<script>", message: "<img src=x onerror='1'>&", code: 502 },
    { "user-agent": firefox },
  );
  expect(body).not.toMatch(/<script|<img/);
});
