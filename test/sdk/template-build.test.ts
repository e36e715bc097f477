/** Template.build() of the unmodified SDK, on real machines: every sandbox of a template has what was built. */
import { mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BuildError, type BuildOptions, type LogEntry, Template, type TemplateClass } from "e2b";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { api, connection, Sandbox, sharedDaemon, skipReason } from "../support/clients/sdk.ts";
import { reservations } from "../support/daemon/requests.ts";

/** Templates to remove at the end, because a template keeps its snapshot. */
const built: string[] = [];

async function build(template: TemplateClass, name: string, options: Omit<BuildOptions, "alias"> = {}) {
  const info = await Template.build(template, name, { ...connection(), ...options });
  built.push(info.templateId);
  return info;
}

/** The error that a build failed with. */
async function failureOf(building: Promise<unknown>): Promise<BuildError> {
  const error = await building.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (error instanceof BuildError) return error;
  throw new Error(`the build did not end with a BuildError: ${String(error)}`);
}

async function runIn(name: string, ...commands: string[]): Promise<string[]> {
  const sandbox = await Sandbox.create(name, { ...connection(), timeoutMs: 600_000, envs: { FROM_CREATE: "yes" } });
  try {
    const outputs: string[] = [];
    for (const command of commands) outputs.push((await sandbox.commands.run(command)).stdout.trimEnd());
    return outputs;
  } finally {
    await sandbox.kill();
  }
}

describe.skipIf(skipReason)("template builds", { timeout: 300_000 }, () => {
  let context: string;

  beforeAll(async () => {
    context = await mkdtemp(join(tmpdir(), "firkin-context-"));
    await writeFile(join(context, "greeting.txt"), "hello\n");
    await writeFile(join(context, "run.sh"), "#!/bin/sh\necho ran\n", { mode: 0o755 });
    await symlink("greeting.txt", join(context, "link"));
  });

  afterAll(async () => {
    await rm(context, { recursive: true, force: true });
    for (const id of built) await api(`/templates/${id}`, { method: "DELETE" });
  });

  test("a build runs every kind of step and the start command, and logs them", async () => {
    const template = Template({ fileContextPath: context })
      .fromTemplate("base")
      .setEnvs({ GREETING: "hi", LONGER: "$HOME/x:$USER", QUOTED: 'a "b" `c` $(d)' })
      .runCmd('echo "$GREETING from $(id -un)" | tee /home/user/made.txt; echo oops >&2')
      .runCmd("mkdir -p /opt/tools && ln -s /bin/true /opt/tools/my-tool", { user: "root" })
      .setEnvs({ PATH: "/opt/tools:$PATH" })
      .runCmd("my-tool")
      .setUser("builder")
      .setWorkdir("/srv/app")
      .copy("greeting.txt", "greetings/")
      .copy("*", "all/")
      .copy("run.sh", "/usr/local/bin/run-it", { user: "root", mode: 0o700 })
      .runCmd("pwd; whoami")
      .setStartCmd("python3 -m http.server 8123", "curl -sf http://localhost:8123/greetings/greeting.txt");
    const logs: LogEntry[] = [];
    const info = await build(template, "all-steps:v1", { tags: ["stable"], onBuildLogs: (entry) => logs.push(entry) });
    expect(info).toMatchObject({ name: "all-steps:v1", tags: ["v1", "stable"] });

    const messages = logs.map(({ message }) => message);
    expect(messages).toEqual(
      expect.arrayContaining(
        ["hi from user", "/srv/app", "builder"].map((line) => expect.stringContaining(`] [stdout]: ${line}`)),
      ),
    );
    expect(messages).toEqual(
      expect.arrayContaining([
        expect.stringContaining("[stderr]: oops"),
        expect.stringMatching(/^Build finished, took \d+s$/),
      ]),
    );
    expect(logs.find(({ message }) => message.endsWith("[stderr]: oops"))?.level).toBe("warn");

    const [made, envs, whereAndWho, files, modes, linked, served, owner, tool] = await runIn(
      "all-steps:stable",
      "cat /home/user/made.txt",
      'printf "%s|%s|%s|%s" "$GREETING" "$LONGER" "$QUOTED" "$FROM_CREATE"',
      "pwd; whoami",
      "ls greetings all",
      "stat -c '%U:%G %a' /usr/local/bin/run-it greetings/greeting.txt greetings",
      "readlink all/link; cat all/link",
      "curl -s http://localhost:8123/greetings/greeting.txt",
      "ps -o user= -C python3",
      "which my-tool",
    );
    expect(made).toBe("hi from user");
    expect(envs).toBe('hi|/home/user/x:user|a "b" `c` $(d)|yes');
    expect(whereAndWho).toBe("/srv/app\nbuilder");
    expect(files).toBe("all:\ngreeting.txt\nlink\nrun.sh\n\ngreetings:\ngreeting.txt");
    expect(modes).toBe("root:root 700\nbuilder:builder 644\nbuilder:builder 755");
    expect(linked).toBe("greeting.txt\nhello");
    expect(served).toBe("hello");
    expect(owner).toBe("builder");
    expect(tool).toBe("/opt/tools/my-tool");
  });

  test("a step that fails is named, and its build leaves nothing but the reason", async () => {
    const logs: string[] = [];
    const template = Template().fromTemplate("base").runCmd("true").runCmd("echo why; exit 3");
    const options = { ...connection(), onBuildLogs: ({ message }: LogEntry) => logs.push(message) };
    const error = await failureOf(Template.build(template, "fails", options));
    expect(error.message).toContain("failed to run command 'echo why; exit 3': exit status 3");
    expect(error.stack).toContain("template-build.test.ts");
    expect(logs).toContain("[builder 2/2] [stdout]: why");
    const unknownUser = Template().fromTemplate("base").runCmd("whoami", { user: "root123" });
    const worded = "failed to run command 'whoami': command failed: unauthenticated: invalid username: 'root123'";
    expect((await failureOf(Template.build(unknownUser, "fails", connection()))).message).toContain(worded);
    await expect(Sandbox.create("fails", connection())).rejects.toThrow("tag 'default' does not exist");
    expect(await reservations(sharedDaemon())).toBe(0);
    const { templateID } = (await (await api("/templates/aliases/fails")).json()) as { templateID: string };
    expect((await api(`/templates/${templateID}`, { method: "DELETE" })).status).toBe(204);
  });

  test("a template is built on a template, tagged and found", async () => {
    // `fromBaseImage` names an image, for which template base stands.
    await build(Template().fromBaseImage().setEnvs({ LAYER: "one" }).setWorkdir("/opt/one"), "parent");
    await build(
      Template().fromTemplate("parent").runCmd("echo $LAYER > two").setEnvs({ TWO: "$LAYER+two" }),
      "child:v1",
    );
    expect(await runIn("child:v1", "cat two; pwd; echo $LAYER $TWO")).toEqual(["one\n/opt/one\none one+two"]);

    expect(await Template.exists("child", connection())).toBe(true);
    expect(await Template.exists("nobody", connection())).toBe(false);
    await Template.assignTags("child:v1", ["default", "stable"], connection());
    const tags = await Template.getTags("child", connection());
    expect(tags.map(({ tag }) => tag).sort()).toEqual(["default", "stable", "v1"]);
    expect(new Set(tags.map(({ buildId }) => buildId)).size).toBe(1);
    await Template.removeTags("child", ["v1"], connection());
    await expect(Sandbox.create("child:v1", connection())).rejects.toThrow("tag 'v1' does not exist");
    expect(await runIn("child", "cat two")).toEqual(["one"]);
  });

  test("a template with another shape is booted, and its sandboxes have that shape", async () => {
    const template = Template().fromTemplate("base").runCmd("nproc > /home/user/cpus");
    await build(template, "larger", { cpuCount: 1, memoryMB: 640 });
    const [cpus, memory] = await runIn(
      "larger",
      "cat cpus; nproc",
      "awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo",
    );
    expect(cpus).toBe("1\n1");
    expect(Number(memory)).toBeGreaterThan(540);
  });
});
