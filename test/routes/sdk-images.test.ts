/** Every `from…` of E2B's SDKs: the image and login that reach the builds, and the line that a failed pull points at. */
import * as current from "e2b";
import * as v1Routes from "e2b-v1-routes";
import { describe, expect, test } from "vitest";
import { DomainError } from "../../src/errors.ts";
import type { ImageOrder } from "../../src/template/images/store.ts";
import { apiKey, openControlPlane } from "../support/daemon/control-plane.ts";
import { openFakeTemplates } from "../support/fakes/fake-templates.ts";

const generations = [
  ["2.51.0", current],
  ["2.45.0", v1Routes as unknown as typeof current],
] as const;
type Builder = ReturnType<typeof current.Template>;

/** Builds in a control plane where no image can be had, and tells what was asked for. */
async function orderOf(sdk: typeof current, from: (builder: Builder) => current.TemplateClass) {
  const orders: ImageOrder[] = [];
  const images = {
    prepare: async (order: ImageOrder) => {
      orders.push(order);
      throw new DomainError("failed_precondition", "no image today");
    },
  };
  await using fake = openFakeTemplates({ images });
  await using plane = openControlPlane({ templates: fake.templates });
  const apiUrl = await plane.app.listen({ host: "127.0.0.1", port: 0 });
  const building = sdk.Template.build(from(sdk.Template()), "app", { apiKey, apiUrl });
  const error = await building.then(
    () => undefined,
    (reason: unknown) => reason as Error,
  );
  return { order: orders[0], error };
}

describe.each(generations)("e2b %s", (_version, sdk) => {
  test.each<[string, (builder: Builder) => current.TemplateClass, string]>([
    ["fromImage", (builder) => builder.fromImage("ghcr.io/a/b:1"), "ghcr.io/a/b:1"],
    ["fromDebianImage", (builder) => builder.fromDebianImage(), "debian:stable"],
    ["fromUbuntuImage", (builder) => builder.fromUbuntuImage("24.04"), "ubuntu:24.04"],
    ["fromPythonImage", (builder) => builder.fromPythonImage(), "python:3"],
    ["fromNodeImage", (builder) => builder.fromNodeImage(), "node:lts"],
    ["fromBunImage", (builder) => builder.fromBunImage(), "oven/bun:latest"],
    ["fromDockerfile", (builder) => builder.fromDockerfile("FROM alpine:3.20\nRUN true\nCMD serve"), "alpine:3.20"],
  ])("%s asks for its image, without a login", async (_, from, reference) => {
    const { order, error } = await orderOf(sdk, from);
    expect(order).toEqual({ reference, login: undefined });
    expect(error).toBeInstanceOf(sdk.BuildError);
    expect(error?.message).toContain("no image today");
    // The step of the failure leads the SDK to the call that it came from.
    expect(error?.stack).toContain("sdk-images.test.ts");
  });

  test.each<[string, (builder: Builder) => current.TemplateClass, object]>([
    [
      "fromImage with a name and password",
      (builder) => builder.fromImage("r.example/a", { username: "u", password: "p" }),
      { type: "registry", username: "u", password: "p" },
    ],
    [
      "fromAWSRegistry",
      (builder) =>
        builder.fromAWSRegistry("r.example/a", { accessKeyId: "k", secretAccessKey: "s", region: "eu-west-1" }),
      { type: "aws", awsAccessKeyId: "k", awsSecretAccessKey: "s", awsRegion: "eu-west-1" },
    ],
    [
      "fromGCPRegistry",
      (builder) => builder.fromGCPRegistry("r.example/a", { serviceAccountJSON: { type: "service_account" } }),
      { type: "gcp", serviceAccountJson: '{"type":"service_account"}' },
    ],
  ])("%s brings its login", async (_, from, login) => {
    expect((await orderOf(sdk, from)).order).toEqual({ reference: "r.example/a", login });
  });
});

test.each([
  ["fromFedoraImage", "fedora:44"],
  ["fromAlpineImage", "alpine:3.24"],
  ["fromArchImage", "archlinux:latest"],
] as const)("%s of the newest SDK asks for %s", async (method, reference) => {
  expect((await orderOf(current, (builder) => builder[method]())).order).toEqual({ reference, login: undefined });
});
