/** Any request gets an answer that the API documents: never a 500, always a code and a message. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { type Answer, openControlPlane } from "../support/daemon/control-plane.ts";

function expectDocumented(answer: Answer): void {
  expect(answer.status).toBeLessThan(600);
  expect(answer.status).not.toBe(500);
  if (answer.status < 400) return;
  expect(answer.body).toMatchObject({ code: answer.status, message: expect.any(String) });
}

const paths = [
  "/sandboxes",
  "/v2/sandboxes",
  "/sandboxes/iaa1/connect",
  "/v2/sandboxes/iaa1/connect",
  "/sandboxes/iaa1/timeout",
  "/sandboxes/iaa1/refreshes",
  "/v3/templates",
  "/v2/templates/t/builds/b",
  "/templates/tags",
];
const options = [
  "templateID",
  "timeout",
  "autoPause",
  "autoPauseMemory",
  "autoResume",
  "secure",
  "allow_internet_access",
  "network",
  "metadata",
  "envVars",
  "mcp",
  "iam",
  "volumeMounts",
  "memory",
  "duration",
  "name",
  "tags",
  "target",
  "cpuCount",
  "memoryMB",
  "public",
];
const almostBody = fc.oneof(
  fc.dictionary(fc.oneof(fc.constantFrom(...options), fc.string()), fc.jsonValue({ maxDepth: 3 })),
  fc
    .record({ timeout: fc.integer(), metadata: fc.dictionary(fc.string(), fc.string()), envVars: fc.jsonValue() })
    .map((body) => ({ templateID: "base", ...body })),
);

test("any JSON body", async () => {
  await using plane = openControlPlane();
  const property = fc.asyncProperty(
    fc.constantFrom(...paths),
    fc.oneof(almostBody, fc.jsonValue()),
    async (url, body) => {
      const text = JSON.stringify(body);
      expectDocumented(await plane.call("POST", url, text, { "content-type": "application/json" }));
    },
  );
  await fc.assert(property, { numRuns: 300 });
  expect(plane.errors).toEqual([]);
});

test("any bytes under any content type", async () => {
  await using plane = openControlPlane();
  const types = ["application/json", "application/json; charset=latin1", "text/plain", "x", "multipart/form-data"];
  const property = fc.asyncProperty(
    fc.constantFrom("POST", "PUT", "PATCH", "DELETE"),
    fc.constantFrom(...paths, "/sandboxes/iaa1", "/v2/templates/base", "/templates/t/files/x?token=1.2", "/nowhere"),
    fc.constantFrom(...types),
    fc.uint8Array(),
    async (method, url, type, bytes) => {
      expectDocumented(await plane.call(method, url, Buffer.from(bytes), { "content-type": type }));
    },
  );
  await fc.assert(property, { numRuns: 200 });
  expect(plane.errors).toEqual([]);
});

test("any query", async () => {
  await using plane = openControlPlane();
  await plane.call("POST", "/v2/sandboxes", { templateID: "base" });
  const names = [
    "metadata",
    "state",
    "order",
    "startedAfter",
    "template",
    "nextToken",
    "limit",
    "start",
    "sandbox_ids",
  ];
  const value = fc.oneof(
    fc.string(),
    fc.constantFrom("running", "asc", "1", "-0", "1e3", "2026-01-01T00:00:00Z", "base"),
  );
  const pair = fc
    .tuple(fc.oneof(fc.constantFrom(...names), fc.string()), value)
    .map(([name, text]) => `${encodeURIComponent(name)}=${encodeURIComponent(text)}`);
  const query = fc.oneof(
    fc.array(pair, { maxLength: 4 }).map((pairs) => pairs.join("&")),
    fc.stringMatching(/^[\x21-\x7e]*$/),
  );
  const property = fc.asyncProperty(
    fc.constantFrom(
      "/v2/sandboxes",
      "/sandboxes",
      "/sandboxes/metrics",
      "/sandboxes/iaa1/metrics",
      "/v2/templates",
      "/templates/base",
      "/templates/basetemplate/builds/x/status",
    ),
    query,
    async (path, text) => expectDocumented(await plane.call("GET", `${path}?${text}`)),
  );
  await fc.assert(property, { numRuns: 300 });
  expect(plane.errors).toEqual([]);
});

test("any start of a build", async () => {
  await using plane = openControlPlane();
  const step = fc.record({
    type: fc.constantFrom("RUN", "ENV", "WORKDIR", "USER", "COPY", "X"),
    args: fc.array(fc.string(), { maxLength: 4 }),
    filesHash: fc.option(fc.constantFrom("0".repeat(64), "x")),
  });
  const body = fc.record({
    fromTemplate: fc.oneof(fc.constantFrom("base", "base:default", "x"), fc.string()),
    fromImage: fc.option(fc.string(), { freq: 9 }),
    steps: fc.array(step, { maxLength: 3 }),
    startCmd: fc.option(fc.string()),
  });
  await fc.assert(
    fc.asyncProperty(body, async (start) => {
      const asked = await plane.call("POST", "/v3/templates", { name: "app" });
      const { templateID, buildID } = asked.body as { templateID: string; buildID: string };
      expectDocumented(await plane.call("POST", `/v2/templates/${templateID}/builds/${buildID}`, start));
      await plane.fake.builds.finished(buildID);
      expectDocumented(await plane.call("GET", `/templates/${templateID}/builds/${buildID}/status`));
    }),
    { numRuns: 100 },
  );
  expect(plane.errors).toEqual([]);
});

test("any id", async () => {
  await using plane = openControlPlane();
  const property = fc.asyncProperty(
    fc.constantFrom("GET", "DELETE"),
    fc.oneof(fc.string().map(encodeURIComponent), fc.stringMatching(/^[\x21-\x7e]*$/)),
    async (method, id) => {
      for (const path of ["/sandboxes/", "/templates/", "/templates/aliases/"]) {
        expectDocumented(await plane.call(method, `${path}${id}`));
      }
    },
  );
  await fc.assert(property, { numRuns: 200 });
  expect(plane.errors).toEqual([]);
});
