import { expect, test } from "vitest";
import { type ControlPlane, openControlPlane } from "../support/daemon/control-plane.ts";

const at = (ms: number) => new Date(ms).toISOString();

function fill({ runtime }: ControlPlane): void {
  const levels = ["debug", "info", "warn", "error"] as const;
  levels.forEach((level, n) => {
    const fields = { logger: "process", pid: "7" };
    runtime.logLines.push({ sandboxId: "i1", atMs: 1_000 * (n + 1), level, message: `line ${level}`, fields });
  });
}

test("v1: oldest first from a time on, each line as JSON too", async () => {
  await using plane = openControlPlane();
  fill(plane);
  const { status, body } = await plane.call("GET", "/sandboxes/i1-6532622b/logs?start=3000&limit=1");
  expect(status).toBe(200);
  expect(body).toEqual({
    logs: [
      {
        timestamp: at(3_000),
        line: JSON.stringify({ logger: "process", pid: "7", level: "warn", message: "line warn" }),
      },
    ],
    logEntries: [
      { timestamp: at(3_000), message: "line warn", level: "warn", fields: { logger: "process", pid: "7" } },
    ],
  });
  const all = await plane.call("GET", "/sandboxes/i1/logs?limit=5000");
  expect((all.body as { logs: unknown[] }).logs).toHaveLength(4);
});

test("v2: newest first unless asked otherwise, by level and words, paged by time", async () => {
  await using plane = openControlPlane();
  fill(plane);
  const ask = async (query: string) => {
    const { status, body } = await plane.call("GET", `/v2/sandboxes/i1/logs?${query}`);
    expect(status).toBe(200);
    return (body as { logs: { message: string }[] }).logs.map(({ message }) => message.slice(5));
  };
  expect(await ask("")).toEqual(["error", "warn", "info", "debug"]);
  expect(await ask("direction=forward")).toEqual(["debug", "info", "warn", "error"]);
  expect(await ask("cursor=2000")).toEqual(["info", "debug"]);
  expect(await ask("cursor=3000&direction=forward")).toEqual(["warn", "error"]);
  expect(await ask("level=warn")).toEqual(["error", "warn"]);
  expect(await ask("search=line%20i")).toEqual(["info"]);
  expect(await ask("limit=2")).toEqual(["error", "warn"]);
  expect(await ask("limit=0")).toEqual([]);
});

test("wrong queries and unknown sandboxes", async () => {
  await using plane = openControlPlane();
  for (const query of [
    "limit=1001",
    "limit=-1",
    "direction=up",
    "level=loud",
    `search=${"x".repeat(257)}`,
    "cursor=x",
  ]) {
    const { status, body } = await plane.call("GET", `/v2/sandboxes/i1/logs?${query}`);
    expect({ query, status }).toEqual({ query, status: 400 });
    expect(body).toMatchObject({ code: 400, message: expect.stringMatching(/^validation error: query/) });
  }
  for (const path of ["/sandboxes/i1/logs", "/v2/sandboxes/i1/logs"]) {
    expect(await plane.call("GET", path)).toMatchObject({ status: 404, body: { code: 404 } });
  }
});
