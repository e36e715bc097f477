/** Templates from images, by the unmodified SDK: pulled from a registry, booted on a real machine, used. */
import { type BuildOptions, Template, type TemplateClass } from "e2b";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { api, connection, Sandbox, skipReason } from "../support/clients/sdk.ts";
import { makeImage } from "../support/images/make-image.ts";
import { TestRegistry } from "../support/images/registry.ts";

const built: string[] = [];

async function build(template: TemplateClass, name: string, options: Partial<BuildOptions> = {}) {
  const lines: string[] = [];
  const onBuildLogs = ({ message }: { message: string }) => void lines.push(message);
  const info = await Template.build(template, name, { ...connection(), onBuildLogs, ...options });
  built.push(info.templateId);
  return { ...info, lines };
}

async function runIn(name: string, ...commands: string[]): Promise<string[]> {
  const sandbox = await Sandbox.create(name, { ...connection(), timeoutMs: 600_000 });
  try {
    const outputs: string[] = [];
    for (const command of commands) outputs.push((await sandbox.commands.run(command)).stdout.trimEnd());
    return outputs;
  } finally {
    await sandbox.kill();
  }
}

describe.skipIf(skipReason)("templates from images", { timeout: 600_000 }, () => {
  let registry: TestRegistry;

  beforeAll(async () => {
    registry = await TestRegistry.open();
  });

  afterAll(async () => {
    for (const id of built) await api(`/templates/${id}`, { method: "DELETE" });
    await registry[Symbol.asyncDispose]();
  });

  test("an image without a shell, a user and a single program boots, is built on, and runs commands", async () => {
    const image = registry.add(
      "scratch",
      makeImage({
        layers: [[{ path: "app/" }, { path: "app/data.txt", content: "from the image\n" }]],
        config: { Env: ["FROM_IMAGE=yes", "EMPTY="], User: "1000", WorkingDir: "/app", Entrypoint: ["/serve"] },
      }),
    );
    const { lines } = await build(
      Template().fromImage(image).runCmd("cat /app/data.txt; id -un; echo $FROM_IMAGE > /home/user/made"),
      "from-scratch",
    );
    expect(lines).toEqual(expect.arrayContaining([`FROM ${image}`, "from the image", "user"]));
    expect(lines.join("\n")).toContain("USER 1000, WORKDIR /app, ENTRYPOINT /serve are not used");
    const outputs = await runIn("from-scratch", "cat /home/user/made", "whoami; pwd", "echo $FROM_IMAGE", "ls /app");
    expect(outputs).toEqual(["yes", "user\n/home/user", "yes", "data.txt"]);
  });
});
