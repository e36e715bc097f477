/**
 * The contract: `/openapi.json` names every route, and whatever a client sends to one of them, right or almost right, the
 * answer is one that is described there, of the shape that is described there.
 */
import fc from "fast-check";
import type { RouteOptions } from "fastify";
import { expect, test } from "vitest";
import { z } from "zod";
import { arbitraryOf, type JsonSchema, type Schemas } from "../support/clients/arbitrary-json.ts";
import { type Answer, type ControlPlane, openControlPlane, teamId } from "../support/daemon/control-plane.ts";

interface Content {
  readonly content?: Readonly<Record<string, { readonly schema: JsonSchema }>>;
}
interface Operation {
  readonly parameters?: readonly { readonly in: string; readonly name: string; readonly schema: JsonSchema }[];
  /** Empty: none is needed. Absent: the key. */
  readonly security?: readonly object[];
  readonly requestBody?: Content & { readonly required?: boolean };
  readonly responses: Readonly<Record<string, Content>>;
}
interface Document {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
  readonly components: { readonly schemas: Schemas };
}

async function describedBy(plane: ControlPlane): Promise<Document> {
  return (await plane.call("GET", "/openapi.json")).body as Document;
}

const probe = openControlPlane();
const routes: RouteOptions[] = [];
probe.app.addHook("onRoute", (route) => {
  routes.push(route);
});
const document = await describedBy(probe);
await probe[Symbol.asyncDispose]();
const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ method: method.toUpperCase(), path, operation })),
);

test("every route is described that is not hidden on purpose, with what it answers and how it fails", () => {
  const served = routes.filter(({ schema }) => (schema as { hide?: boolean } | undefined)?.hide !== true);
  const named = served
    .flatMap(({ method, url }) => [method].flat().map((each) => `${each} ${url.replace(/:(\w+)/g, "{$1}")}`))
    .filter((name) => !name.startsWith("HEAD "));
  expect(operations.map(({ method, path }) => `${method} ${path}`).sort()).toEqual(named.sort());
  expect(named.length).toBeGreaterThan(40);
  for (const { method, path, operation } of operations) {
    const statuses = Object.keys(operation.responses);
    expect({ method, path, statuses }).toMatchObject({ statuses: expect.arrayContaining(["4XX", "5XX"]) });
    const isGone = path.startsWith("/access-tokens");
    expect(statuses.some((status) => status.startsWith("2")) || isGone, `${method} ${path}`).toBe(true);
    const error = { $ref: "#/components/schemas/Error" };
    for (const status of ["4XX", "5XX"]) {
      expect(operation.responses[status]?.content?.["application/json"]?.schema).toEqual(error);
    }
  }
});

test("a route without a key says so", async () => {
  await using plane = openControlPlane();
  for (const { method, path, operation } of operations) {
    const { status } = await plane.call(method, path, undefined, { "x-api-key": undefined });
    expect({ method, path, isOpen: operation.security?.length === 0 }).toEqual({
      method,
      path,
      isOpen: status !== 401,
    });
  }
});

test("optional bodies and headers of answers are described", () => {
  const { paths } = document;
  expect(paths["/sandboxes/{sandboxID}/pause"]?.post?.requestBody?.required).toBe(false);
  expect(paths["/v2/sandboxes"]?.post?.requestBody?.required).toBe(true);
  expect(paths["/v2/sandboxes"]?.get).toMatchObject({
    responses: {
      200: { headers: { "X-Next-Token": {}, "X-Total-Running": {} } },
      "4XX": { headers: { "Retry-After": {} } },
    },
  });
});

/** What hides behind a name in a path: something that is there, something that is not, anything. */
function segment(name: string, known: Readonly<Record<string, readonly string[]>>): fc.Arbitrary<string> {
  const there = fc.constantFrom(...(known[name] ?? ["x"]));
  const anything = fc.string({ minLength: 1, maxLength: 20 }).map(encodeURIComponent);
  return fc.oneof({ weight: 5, arbitrary: there }, { weight: 1, arbitrary: anything });
}

function queryOf(parameters: NonNullable<Operation["parameters"]>): fc.Arbitrary<string> {
  const pairs = parameters.map(({ name, schema }) =>
    fc.option(
      arbitraryOf(schema, document.components.schemas).map((value) => `${name}=${encode(value)}`),
      { nil: "" },
    ),
  );
  return fc.tuple(...pairs).map((parts) => parts.filter((part) => part !== "").join("&"));
}

/** Half a surrogate has no form in a URL. */
function encode(value: unknown): string {
  const text = typeof value === "object" ? JSON.stringify(value) : String(value);
  return encodeURIComponent(Buffer.from(text).toString());
}

function checkDescribed(operation: Operation, { status, body, text }: Answer): void {
  expect(status).not.toBe(500);
  const { responses } = operation;
  const response = responses[status] ?? responses[`${Math.floor(status / 100)}XX`];
  if (!response) throw new Error(`${status} is not described: ${text}`);
  const schema = response.content?.["application/json"]?.schema;
  if (!schema) {
    expect(text).toBe("");
    return;
  }
  if (status >= 400) expect(body).toMatchObject({ code: status, message: expect.stringMatching(/./) });
  expect(shapeOf(schema).safeParse(body).error).toBeUndefined();
}

const shapes = new Map<JsonSchema, z.ZodType>();
function shapeOf(schema: JsonSchema): z.ZodType {
  let shape = shapes.get(schema);
  if (!shape) {
    const whole = JSON.stringify({ ...schema, $defs: document.components.schemas });
    shape = z.fromJSONSchema(JSON.parse(whole.replaceAll("#/components/schemas/", "#/$defs/")));
    shapes.set(schema, shape);
  }
  return shape;
}

test.each(operations)("$method $path answers as described", async ({ method, path, operation }) => {
  await using plane = openControlPlane();
  const create = async () =>
    ((await plane.call("POST", "/v2/sandboxes", { templateID: "base" })).body as { sandboxID: string }).sandboxID;
  const [running, paused] = [await create(), await create()];
  plane.runtime.pause(paused);
  await plane.call("POST", `/sandboxes/${running}/snapshots`, { name: "snap" });
  const key = (await plane.call("POST", "/api-keys", { name: "k" })).body as { id: string };
  const known = {
    sandboxID: [running, paused, `${running}-6532622b`, "inone", "a-b-c"],
    templateID: ["base", "basetemplate", "none", "snap"],
    alias: ["base", "none"],
    teamID: [teamId, "other"],
    apiKeyID: [key.id, "none"],
    hash: ["0".repeat(64), "short"],
  };
  const { parameters = [], requestBody } = operation;
  const names = [...path.matchAll(/\{(\w+)\}/g)].map((match) => match[1] ?? "");
  const bodySchema = requestBody?.content?.["application/json"]?.schema;
  const body = bodySchema
    ? fc.option(arbitraryOf(bodySchema, document.components.schemas), { nil: undefined, freq: 20 })
    : fc.constant(undefined);
  const property = fc.asyncProperty(
    fc.tuple(...names.map((name) => segment(name, known))),
    queryOf(parameters.filter((parameter) => parameter.in === "query")),
    body,
    async (segments, query, sent) => {
      const filled = names.reduce((url, name, at) => url.replace(`{${name}}`, () => segments[at] ?? ""), path);
      const json = sent === undefined ? undefined : JSON.stringify(sent);
      const headers = json === undefined ? {} : { "content-type": "application/json" };
      checkDescribed(operation, await plane.call(method, query ? `${filled}?${query}` : filled, json, headers));
    },
  );
  await fc.assert(property, { numRuns: 60 });
  expect(plane.errors).toEqual([]);
});
