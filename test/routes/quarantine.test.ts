import { expect, test } from "vitest";
import { DomainError } from "../../src/errors.ts";
import { openControlPlane } from "../support/daemon/control-plane.ts";

test("the list needs the key; an entry is removed once", async () => {
  const entries = [{ id: "q1", kind: "file", name: "core", reason: "it is none", atMs: 0 } as const];
  const left = [...entries];
  const quarantine = {
    list: () => left,
    remove: async (id: string) => {
      if (left.pop()?.id !== id) throw new DomainError("not_found", `There is no ${id} in quarantine`);
    },
  };
  await using plane = openControlPlane({ quarantine });
  expect(await plane.call("GET", "/quarantine", undefined, { "x-api-key": undefined })).toMatchObject({ status: 401 });
  expect((await plane.call("GET", "/quarantine")).body).toEqual({
    entries: [{ id: "q1", kind: "file", name: "core", reason: "it is none", at: "1970-01-01T00:00:00.000Z" }],
  });
  expect(await plane.call("DELETE", "/quarantine/q1")).toMatchObject({ status: 204, text: "" });
  expect(await plane.call("DELETE", "/quarantine/q1")).toMatchObject({ status: 404 });
  expect((await plane.call("GET", "/quarantine")).body).toEqual({ entries: [] });
});
