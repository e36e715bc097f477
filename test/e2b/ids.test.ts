import { expect, test } from "vitest";
import { deriveAccessToken, secretsEqual } from "../../src/e2b/access-token.ts";
import { newSandboxId, newTemplateId, parseSandboxId } from "../../src/e2b/ids.ts";

test("a sandbox id carries its node tag and is never the same", () => {
  expect(newSandboxId()).toMatch(/^iaa[a-z0-9]{18}$/);
  expect(newSandboxId("b7")).toMatch(/^ib7[a-z0-9]{18}$/);
  expect(new Set(Array.from({ length: 500 }, () => newSandboxId())).size).toBe(500);
  expect(newTemplateId()).toMatch(/^[a-z0-9]{20}$/);
});

test("the older form of an id loses its client id, anything else is refused", () => {
  expect(parseSandboxId("iaa1")).toBe("iaa1");
  expect(parseSandboxId("iaa1-6532622b")).toBe("iaa1");
  for (const bad of ["", "a-b-c", "A", "a.b", "../x", "a".repeat(65), "-a"]) {
    expect(() => parseSandboxId(bad)).toThrow("Invalid sandbox ID");
  }
});

test("an access token depends on the sandbox and the machine's secret alone", () => {
  const token = deriveAccessToken("secret", "iaa1");
  expect(token).toMatch(/^[0-9a-f]{64}$/);
  expect(deriveAccessToken(Buffer.from("secret"), "iaa1")).toBe(token);
  expect(deriveAccessToken("secret", "iaa2")).not.toBe(token);
  expect(deriveAccessToken("secret2", "iaa1")).not.toBe(token);
});

test("secrets are equal only when every byte is", () => {
  expect(secretsEqual("abc", "abc")).toBe(true);
  expect(secretsEqual("abc", "abd")).toBe(false);
  expect(secretsEqual("abc", "ab")).toBe(false);
  expect(secretsEqual("", "")).toBe(true);
  expect(secretsEqual("\u00e9", "ab")).toBe(false);
});
