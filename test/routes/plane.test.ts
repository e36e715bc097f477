import fc from "fast-check";
import fastify from "fastify";
import { expect, test } from "vitest";
import { isKnownHost } from "../../routes/http/host-check.ts";
import { type Plane, planeOf } from "../../routes/http/plane.ts";
import { planeConstraint, routesBelongTo, targetOf } from "../../routes/http/plane-constraint.ts";

const id = "iaa0123456789abcdefgh";
const control: Plane = { plane: "control" };
const bad = (message: string): Plane => ({ plane: "bad", status: 400, message });
const byId = (port: number, sandboxId = id): Plane => ({ plane: "data", target: { by: "id", sandboxId, port } });
const byToken: Plane = { plane: "data", target: { by: "accessToken", accessToken: "t", port: 49983 } };
const preflight: Plane = { plane: "data", target: { by: "preflight" } };
const unauthorized: Plane = {
  plane: "bad",
  status: 401,
  message: "unauthorized access, please provide a valid access token or method signing if supported",
};
const routing = { "e2b-sandbox-id": id, "e2b-sandbox-port": "49983" };

type Row = [name: string, url: string, headers: Record<string, string>, expected: Plane, method?: string];

const table: Row[] = [
  ["plain control request", "/v2/sandboxes?limit=1", { host: "localhost:3000" }, control],
  ["health without marks", "/health", {}, control],
  ["metrics without marks", "/metrics", {}, control],
  ["a token is no mark on a control path", "/sandboxes", { "x-access-token": "t" }, control],
  ["a signature is no mark on a control path", "/sandboxes?signature=v1_x", {}, control],
  ["both headers", "/health", routing, byId(49983)],
  ["both headers on any path", "/anything", { ...routing, "e2b-sandbox-port": "8080" }, byId(8080)],
  ["id without port", "/files", { "e2b-sandbox-id": id }, bad("missing header")],
  ["port without id", "/files", { "e2b-sandbox-port": "49983" }, bad("missing header")],
  ["port not a number", "/", { ...routing, "e2b-sandbox-port": "x" }, bad("Invalid sandbox port")],
  ["port zero", "/", { ...routing, "e2b-sandbox-port": "0" }, bad("Invalid sandbox port")],
  ["port too large", "/", { ...routing, "e2b-sandbox-port": "65536" }, bad("Invalid sandbox port")],
  ["id with a dash", "/", { ...routing, "e2b-sandbox-id": `${id}-1` }, bad("Invalid sandbox ID")],
  ["id in upper case", "/", { ...routing, "e2b-sandbox-id": "IAA" }, bad("Invalid sandbox ID")],
  ["empty id", "/", { ...routing, "e2b-sandbox-id": "" }, bad("Invalid sandbox ID")],
  ["host of a sandbox", "/", { host: `3000-${id}.localhost:4000` }, byId(3000)],
  ["host in upper case", "/", { host: `3000-${id.toUpperCase()}.LOCALHOST` }, byId(3000)],
  ["host with a client id", "/", { host: `3000-${id}-6532622b.localhost` }, byId(3000)],
  ["host wins over headers", "/", { ...routing, host: "80-other.localhost" }, byId(80, "other")],
  ["host with a bad port", "/", { host: `99999-${id}.localhost` }, bad("Invalid sandbox port")],
  ["host with a bad id", "/", { host: "3000-a_b.localhost" }, bad("Invalid sandbox ID")],
  ["host without an id", "/", { host: "3000-.localhost" }, bad("Invalid sandbox ID")],
  ["one label is no sandbox host", "/", { host: `3000-${id}` }, control],
  ["an address is no sandbox host", "/", { host: "127.0.0.1:3000" }, control],
  ["token on /files", "/files?path=a", { "x-access-token": "t" }, byToken],
  ["token on /files/compose", "/files/compose", { "x-access-token": "t" }, byToken],
  ["token on /envs", "/envs", { "x-access-token": "t" }, byToken],
  ["token on /health", "/health", { "x-access-token": "t" }, byToken],
  ["token on /metrics", "/metrics", { "x-access-token": "t" }, byToken],
  ["token on a process call", "/process.Process/Start", { "x-access-token": "t" }, byToken],
  ["token on a file-system call", "/filesystem.Filesystem/Stat", { "x-access-token": "t" }, byToken],
  ["empty token", "/envs", { "x-access-token": "" }, unauthorized],
  ["envd path without marks", "/files?path=a", {}, unauthorized],
  ["call without marks", "/process.Process/List", {}, unauthorized],
  ["a signature signs no call", "/process.Process/List?signature=v1_x", {}, unauthorized],
  ["empty signature", "/files?signature=", {}, unauthorized],
  ["a path that only begins like envd's", "/filesystem", { "x-access-token": "t" }, control],
  [
    "signed URL",
    "/files?path=%2Fa%20b&username=user&signature=v1_a%2Bb%2Fc&signature_expiration=17",
    {},
    {
      plane: "data",
      target: {
        by: "signature",
        port: 49983,
        signed: { path: "/a b", username: "user", signature: "v1_a+b/c", expiration: "17" },
      },
    },
  ],
  [
    "signed URL, the least of it",
    "/files?signature=v1_x",
    {},
    {
      plane: "data",
      target: {
        by: "signature",
        port: 49983,
        signed: { path: "", username: "", signature: "v1_x", expiration: undefined },
      },
    },
  ],
  ["preflight of an envd path", "/files", { "access-control-request-method": "POST" }, preflight, "OPTIONS"],
  [
    "preflight that asks to name a sandbox",
    "/contexts",
    { "access-control-request-method": "POST", "access-control-request-headers": "Content-Type, E2b-Sandbox-Id" },
    preflight,
    "OPTIONS",
  ],
  ["preflight of a control path", "/sandboxes", { "access-control-request-method": "POST" }, control, "OPTIONS"],
  [
    "preflight by host",
    "/files",
    { "access-control-request-method": "POST", host: `49983-${id}.localhost` },
    byId(49983),
    "OPTIONS",
  ],
  ["no host at all", "/", {}, control],
];

test.each(table)("plane of: %s", (_name, url, headers, expected, method = "GET") => {
  expect(planeOf({ method, url, headers })).toEqual(expected);
});

test("a foreign host that passes the host check as a sandbox's never reaches the control plane", () => {
  const part = fc.stringMatching(/^[a-z0-9.:-]{0,12}$/);
  fc.assert(
    fc.property(fc.nat(70_000), part, part, (port, label, rest) => {
      const host = `${port}-${label}.${rest}.example`;
      return !isKnownHost(host, new Set()) || planeOf({ headers: { host } }).plane !== "control";
    }),
  );
});

test("a route of one plane is not seen from the other", async () => {
  const app = fastify({ routerOptions: { constraints: { plane: planeConstraint } } });
  await using _closing = { [Symbol.asyncDispose]: () => app.close() };
  app.register(async (scope) => {
    routesBelongTo(scope, "control");
    scope.get("/health", async () => "control");
    scope.get("/sandboxes", async () => "control");
  });
  app.register(async (scope) => {
    routesBelongTo(scope, "data");
    scope.get("/health", async (request) => targetOf(request));
  });
  const seen = async (url: string, headers: Record<string, string>) => {
    const { statusCode, body } = await app.inject({ url, headers });
    return statusCode === 200 ? body : statusCode;
  };
  expect(await seen("/health", {})).toBe("control");
  expect(await seen("/health", routing)).toBe(JSON.stringify({ by: "id", sandboxId: id, port: 49983 }));
  expect(await seen("/sandboxes", routing)).toBe(404);
  expect(await seen("/health", { "e2b-sandbox-id": id })).toBe(404);
});
