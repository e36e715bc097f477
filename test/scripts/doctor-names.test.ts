/** The doctor's look at the names of services in sandboxes. */
import { expect, test } from "vitest";
import { checkLocalNames } from "../../scripts/doctor/names.mjs";

const answering = (address: string) => () => Promise.resolve({ address });

test("names that lead to this machine are well, in either family", async () => {
  for (const address of ["127.0.0.1", "::1"]) {
    expect(await checkLocalNames(answering(address))).toMatchObject({ level: "ok" });
  }
});

test.each([
  ["unknown", () => Promise.reject(new Error("ENOTFOUND")), /is not resolved/],
  ["somewhere else", answering("192.0.2.1"), /resolves to 192\.0\.2\.1, not to this machine/],
])("names that are %s are advice with a cure", async (_, resolve, detail) => {
  const linux = await checkLocalNames(resolve, "linux");
  expect(linux).toMatchObject({ level: "advice", detail: expect.stringMatching(detail) });
  expect(linux.remedy).toMatch(/nss-myhostname.*nsswitch\.conf/);
  expect((await checkLocalNames(resolve, "darwin")).remedy).toMatch(/firkin tls/);
});
