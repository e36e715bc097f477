import { expect, test } from "vitest";
import { matchesSignature, refuseExpired, signatureOf } from "../../src/e2b/signatures.ts";

const token = "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0";
const url = { path: "hello.txt", username: "user", expiration: undefined };
const known = "v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E";

test("the signature is the one that E2B publishes", () => {
  expect(signatureOf(url, "read", token)).toBe(known);
  expect(matchesSignature({ ...url, signature: known }, "read", token)).toBe(true);
});

test("a signature is good for one path, user, operation, expiration and token only", () => {
  const signed = { ...url, signature: known };
  expect(matchesSignature({ ...signed, path: "hello.txt2" }, "read", token)).toBe(false);
  expect(matchesSignature({ ...signed, username: "" }, "read", token)).toBe(false);
  expect(matchesSignature({ ...signed, expiration: "1" }, "read", token)).toBe(false);
  expect(matchesSignature(signed, "write", token)).toBe(false);
  expect(matchesSignature(signed, "read", `${token}x`)).toBe(false);
  expect(matchesSignature({ ...signed, signature: "" }, "read", token)).toBe(false);
  expect(matchesSignature({ ...signed, signature: known.replace("6E", "6\u00c9") }, "read", token)).toBe(false);
});

test("a signed URL ends at its second, and one with an end that is no number is never good", () => {
  const at = (expiration: string | undefined) => ({ ...url, signature: known, expiration });
  expect(() => refuseExpired(at(undefined), 5000)).not.toThrow();
  expect(() => refuseExpired(at("5"), 5000)).not.toThrow();
  expect(() => refuseExpired(at("5"), 5001)).toThrow("signature is already expired");
  for (const odd of ["", "x", "-1", "1e99", "9".repeat(40)]) {
    expect(() => refuseExpired(at(odd), 5000)).toThrow("signature is already expired");
  }
});
