/** The limit of metadata and variables, at every route that takes them. */
import { expect, test } from "vitest";
import { maxSandboxTextBytes } from "../../src/e2b/text-limits.ts";
import { openControlPlane } from "../support/daemon/control-plane.ts";

/** One pair of so many bytes in UTF-8; some of them are characters of two bytes. */
const pair = (bytes: number) => ({ k: "é".repeat(10) + "x".repeat(bytes - 21) });
const together = `metadata and envVars together may have ${maxSandboxTextBytes}`;
const half = maxSandboxTextBytes / 2;

test.each(["/sandboxes", "/v2/sandboxes"])(
  "POST %s bounds both fields together, and names the larger one",
  async (url) => {
    await using plane = openControlPlane();
    const create = (body: object) => plane.call("POST", url, { templateID: "base", ...body });
    expect(await create({ metadata: pair(half), envVars: pair(half) })).toMatchObject({ status: 201 });
    const refusal = (field: string, bytes: number) => ({
      status: 400,
      body: { code: 400, message: `${field} has ${bytes} bytes; ${together}` },
    });
    expect(await create({ metadata: pair(900_000) })).toMatchObject(refusal("metadata", 900_000));
    expect(await create({ envVars: pair(900_000) })).toMatchObject(refusal("envVars", 900_000));
    expect(await create({ metadata: pair(half + 1), envVars: pair(half) })).toMatchObject(
      refusal("metadata", half + 1),
    );
    expect(plane.runtime.created).toHaveLength(1);
  },
);

test("a resume adds no more variables than fit", async () => {
  await using plane = openControlPlane();
  const answer = await plane.call("POST", "/v2/sandboxes", {
    templateID: "base",
    metadata: pair(half),
    envVars: pair(half),
  });
  const { sandboxID } = answer.body as { sandboxID: string };
  await plane.call("POST", `/sandboxes/${sandboxID}/pause`);
  const resume = (envVars: object) => plane.call("POST", `/sandboxes/${sandboxID}/resume`, { envVars });
  expect(await resume({ a: "" })).toMatchObject({
    status: 400,
    body: { message: `envVars has ${half + 1} bytes; ${together}` },
  });
  expect(await resume({ k: "replaced" })).toMatchObject({ status: 201 });
});

test("a follow-up is bounded like a create", async () => {
  await using plane = openControlPlane();
  const body = { sandboxID: "iaa00000000000000000000", metadata: pair(maxSandboxTextBytes + 1) };
  expect(await plane.call("POST", "/sandboxes/followups", body)).toMatchObject({
    status: 400,
    body: { message: expect.stringContaining(`metadata has ${maxSandboxTextBytes + 1} bytes`) },
  });
});
