/** docs/errors.md is held to the tables in the code: every error code, with its status and code at both borders. */
import { readFileSync } from "node:fs";
import type { Code } from "@connectrpc/connect";
import { codeFromString, codeToHttpStatus } from "@connectrpc/connect/protocol-connect";
import { expect, test } from "vitest";
import { connectCodes } from "../../routes/data/connect-errors.ts";
import { httpErrors } from "../../routes/http/errors.ts";

const page = readFileSync(new URL("../../docs/errors.md", import.meta.url), "utf8");
const row = /^\| `(\w+)` \| (\d+) \| `(\w+)` \((\d+)\) \| (\S.*) \| (\S.*) \|$/gm;

test("the page has every error code once, with its statuses, cause and advice", () => {
  const documented = [...page.matchAll(row)].map(([, code, http, connect = "", connectHttp]) => ({
    code,
    http: Number(http),
    connect: codeFromString(connect),
    connectHttp: Number(connectHttp),
  }));
  const actual = Object.entries(httpErrors).map(([code, { status }]) => {
    const connect: Code = connectCodes[code as keyof typeof connectCodes];
    return { code, http: status, connect, connectHttp: codeToHttpStatus(connect) };
  });
  const byCode = (one: { code?: string | undefined }, other: { code?: string | undefined }) =>
    String(one.code).localeCompare(String(other.code));
  expect(documented.sort(byCode)).toEqual(actual.sort(byCode));
});

test("the page names the error_code of every error that has one", () => {
  const errorCodes = Object.entries(httpErrors).flatMap(([code, error]) =>
    "errorCode" in error ? [[code, error.errorCode] as const] : [],
  );
  for (const [code, errorCode] of errorCodes) {
    expect(page.split("\n").find((line) => line.startsWith(`| \`${code}\` |`))).toContain(`\`${errorCode}\``);
  }
});
