/** Every `from…` of E2B's SDKs: the image and login that reach the builds, and the line that a failed pull points at. */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as current from "e2b";
import * as v1Routes from "e2b-v1-routes";
import { describe, expect, test } from "vitest";
import { differences, openRecordedBuilds } from "../support/clients/recorded-builds.ts";
import { apiKey } from "../support/daemon/control-plane.ts";

const generations = [
  ["2.51.0", current],
  ["2.45.0", v1Routes as unknown as typeof current],
] as const;
type Builder = ReturnType<typeof current.Template>;

/** Builds where no image can be had, and tells what was asked for. */
async function orderOf(sdk: typeof current, from: (builder: Builder) => current.TemplateClass, options = {}) {
  await using recorded = await openRecordedBuilds();
  const building = sdk.Template.build(from(sdk.Template(options)), "app", { apiKey, apiUrl: recorded.url });
  const error = await building.then(
    () => undefined,
    (reason: unknown) => reason as Error,
  );
  return { order: recorded.orders[0], request: recorded.requests[0], error };
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
    const { order, error } = await orderOf(sdk, from);
    expect(order).toEqual({ reference: "r.example/a", login });
    expect(error?.stack).toContain("sdk-images.test.ts");
  });

  test("every builder orders its step, and skipCache() forces those behind it", async () => {
    const folder = await mkdtemp(join(tmpdir(), "firkin-context-"));
    await mkdir(join(folder, "folder"));
    for (const name of ["one.txt", "folder/two.txt"]) await writeFile(join(folder, name), name);
    try {
      const build = (builder: Builder) =>
        builder
          .fromPythonImage("3")
          .setUser("web")
          .setWorkdir("/srv")
          .setEnvs({ A: "1", B: "two words" })
          .copy("one.txt", "/srv/one.txt", { user: "web", mode: 0o640 })
          .copyItems([
            { src: "one.txt", dest: "/a/" },
            { src: "folder", dest: "/b/" },
          ])
          .aptInstall(["curl", "git"])
          .pipInstall("numpy")
          .npmInstall("express")
          .gitClone("https://git.example/a.git", "/src")
          .makeDir("/made")
          .makeSymlink("/made", "/link")
          .rename("/link", "/moved")
          .remove("/moved")
          .runCmd("echo cached")
          .skipCache()
          .runCmd(["echo one", "echo two"], { user: "root" })
          .setStartCmd("serve", "true");
      const { request } = await orderOf(sdk, build, { fileContextPath: folder });
      expect(differences(request)).toEqual([]);
      expect(request).toMatchObject({ force: false, startCommand: "serve", readyCommand: "true" });
      const whole = await orderOf(sdk, (builder) => builder.skipCache().fromPythonImage("3"));
      expect(whole.request).toMatchObject({ force: true });
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });

  test("a Dockerfile of several stages is refused by the SDK itself", async () => {
    const stages = "FROM a AS b\nFROM c\nCOPY --from=b /x /y";
    await expect(orderOf(sdk, (builder) => builder.fromDockerfile(stages))).rejects.toThrow(/[Mm]ulti-stage/);
  });
});

test.each([
  ["fromFedoraImage", "fedora:44"],
  ["fromAlpineImage", "alpine:3.24"],
  ["fromArchImage", "archlinux:latest"],
] as const)("%s of the newest SDK asks for %s", async (method, reference) => {
  expect((await orderOf(current, (builder) => builder[method]())).order).toEqual({ reference, login: undefined });
});
