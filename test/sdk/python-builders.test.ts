/** What both generations of the Python SDK order with each of their builders. No machine is needed. */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";
import { installPythonSdk, scriptArguments } from "../support/clients/python-sdk.ts";
import { differences, openRecordedBuilds } from "../support/clients/recorded-builds.ts";
import { apiKey } from "../support/daemon/control-plane.ts";
import { titleOf } from "../support/skipped-title.ts";

/** The older one is of the time of npm's 2.45, whose routes are those of before. */
const generations = [
  ["newest", await installPythonSdk(), ["from_fedora_image", "from_alpine_image", "from_arch_image"]],
  ["2.45.1", await installPythonSdk("2.45.1"), []],
] as const;

describe.each(generations)("e2b for Python, %s", (generation, sdk, newer) => {
  const missing = "missing" in sdk && sdk.missing;

  test.skipIf(missing)(titleOf("every builder orders its image, login and steps", missing), async () => {
    if ("missing" in sdk) throw new Error(sdk.missing);
    await using recorded = await openRecordedBuilds();
    const script = fileURLToPath(new URL("fixtures/sdk_builders.py", import.meta.url));
    const env = {
      PATH: process.env.PATH,
      E2B_API_KEY: apiKey,
      E2B_API_URL: recorded.url,
      PYTHONDONTWRITEBYTECODE: "1",
    };
    const { stdout } = await promisify(execFile)(sdk.python, scriptArguments(script, ...newer), { env });
    const lines = stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { step: string; value: string[] });
    const at = (name: string) => lines.findIndex(({ step }) => step === name);
    const references = recorded.orders.map(({ reference }) => reference);
    expect(references).toEqual([
      ...["python:3", "python:3", "ghcr.io/a/b:1", "debian:stable", "ubuntu:24.04", "python:3", "node:lts"],
      ...["oven/bun:latest", "alpine:3.20", "r.example/a", "r.example/a", "r.example/a"],
      ...(generation === "newest" ? ["fedora:44", "alpine:3.24", "archlinux:latest"] : []),
    ]);
    expect(differences(recorded.requests[at("every builder")])).toEqual([]);
    expect(recorded.requests[at("forced")]).toMatchObject({ force: true });
    const logins = ["login", "from_aws_registry", "from_gcp_registry"].map((name) => recorded.orders[at(name)]?.login);
    expect(logins).toEqual([
      { type: "registry", username: "u", password: "p" },
      { type: "aws", awsAccessKeyId: "k", awsSecretAccessKey: "s", awsRegion: "eu-west-1" },
      { type: "gcp", serviceAccountJson: expect.stringContaining('"service_account"') },
    ]);
    for (const { step, value } of lines) {
      const [kind, message, line] = value;
      expect([step, kind, message]).toEqual([step, "BuildException", expect.stringContaining("no image today")]);
      // The reason's step leads the SDK to the call that named the image.
      if (step.startsWith("from_")) expect(line).toMatch(/from_|getattr/);
    }
  });
});
