/** References of images, as Docker reads them. */
import { expect, test } from "vitest";
import { isLoopback, parseReference } from "../../../src/template/registry/reference.ts";

const digest = `sha256:${"a".repeat(64)}`;

test.each([
  ["ubuntu", "docker.io", "library/ubuntu", "latest"],
  ["ubuntu:22.04", "docker.io", "library/ubuntu", "22.04"],
  ["oven/bun:latest", "docker.io", "oven/bun", "latest"],
  ["docker.io/a/b", "docker.io", "a/b", "latest"],
  ["index.docker.io/a", "docker.io", "library/a", "latest"],
  ["localhost/a", "localhost", "a", "latest"],
  ["127.0.0.1:5000/t/img:v1", "127.0.0.1:5000", "t/img", "v1"],
  ["GHCR.io/owner/app:1.2_x-y", "ghcr.io", "owner/app", "1.2_x-y"],
  ["123.dkr.ecr.eu-west-1.amazonaws.com/a__b/c--d.e", "123.dkr.ecr.eu-west-1.amazonaws.com", "a__b/c--d.e", "latest"],
  ["[::1]:5000/a", "[::1]:5000", "a", "latest"],
])("%s", (text, registry, path, tag) => {
  expect(parseReference(text)).toEqual({ text, registry, path, version: { kind: "tag", tag } });
});

test("a digest wins over a tag", () => {
  const version = { kind: "digest", digest };
  expect(parseReference(`quay.io/a:v1@${digest}`)).toMatchObject({ registry: "quay.io", path: "a", version });
});

test.each([
  "",
  ":tag",
  "A",
  "a:",
  "a b",
  "a/../b",
  "a//b",
  "/a",
  "a@sha256:1",
  `a@${digest}@${digest}`,
  "http://host/a",
  "ho_st.x:1/a",
  `a:${"t".repeat(129)}`,
  "-a",
  "a..b",
  "host:99999999/a",
  "user:password@host.example/a",
])("'%s' is no reference", (text) => {
  expect(() => parseReference(text)).toThrow(`invalid image reference '${text}'`);
});

test("only this host is its loopback", () => {
  const names = [
    "127.0.0.1:5000",
    "localhost",
    "[::1]:1",
    "127.1.2.3",
    "127.0.0.1.example",
    "localhost.example",
    "::1",
  ];
  expect(names.map(isLoopback)).toEqual([true, true, true, true, false, false, false]);
});
