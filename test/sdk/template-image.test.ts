/** Templates from images, by the unmodified SDK: pulled from a registry, booted on a real machine, used. */
import { spawnSync } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type BuildOptions, Template, type TemplateClass, waitForURL } from "e2b";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { api, connection, Sandbox, sharedDaemon, skipReason } from "../support/clients/sdk.ts";
import { cacheDir } from "../support/daemon/real-daemon.ts";
import { reservations } from "../support/daemon/requests.ts";
import { busyboxLayer } from "../support/images/families.ts";
import { makeImage } from "../support/images/make-image.ts";
import { refuse, TestRegistry } from "../support/images/registry.ts";

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

const dockerfileOf = (image: string) => `FROM ${image}
WORKDIR /srv/app
RUN mkdir -p /opt/own && (echo '#!/bin/sh'; echo 'echo mine') >/opt/own/own-tool && chmod 755 /opt/own/own-tool
USER web
RUN own-tool && id -un
`;

describe.skipIf(skipReason)("templates from images", { timeout: 600_000 }, () => {
  let registry: TestRegistry;
  let context: string;

  beforeAll(async () => {
    registry = await TestRegistry.open();
    context = await mkdtemp(join(tmpdir(), "firkin-context-"));
    await mkdir(join(context, "site"));
    await writeFile(join(context, "site", "page.html"), "a page");
  });

  afterAll(async () => {
    for (const id of built) await api(`/templates/${id}`, { method: "DELETE" });
    await registry[Symbol.asyncDispose]();
    await rm(context, { recursive: true, force: true });
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
    expect(lines).toEqual(
      expect.arrayContaining([
        expect.stringContaining(`[base] FROM ${image} [`),
        "[builder 1/1] [stdout]: from the image",
        "[builder 1/1] [stdout]: user",
      ]),
    );
    expect(lines.join("\n")).toContain("USER 1000, WORKDIR /app, ENTRYPOINT /serve are not used");
    const outputs = await runIn("from-scratch", "cat /home/user/made", "whoami; pwd", "echo $FROM_IMAGE", "ls /app");
    expect(outputs).toEqual(["yes", "user\n/home/user", "yes", "data.txt"]);
  });

  test("an image with busybox alone is built on with every kind of step, and serves at once", async () => {
    const image = registry.add(
      "alpine",
      makeImage({ layers: [busyboxLayer()], config: { Env: ["PATH=/opt/own:/bin"] } }),
    );
    const { lines } = await build(
      Template({ fileContextPath: context })
        .fromDockerfile(dockerfileOf(image))
        .copy("site/", "/srv/site", { user: "web", mode: 0o750 })
        .setEnvs({ GREETING: "it's $HOME" })
        .setStartCmd("httpd -f -p 8080 -h /srv/site", waitForURL("http://localhost:8080/page.html")),
      "from-alpine",
      { cpuCount: 1, memoryMB: 256 },
    );
    expect(lines.join("\n")).toContain(
      "the image lacks, and was given: bash, certificate authorities, the account user",
    );
    const outputs = await runIn(
      "from-alpine",
      "wget -qO- http://localhost:8080/page.html",
      "stat -c '%U:%G %a' /srv/site/page.html",
      "whoami; pwd; echo $GREETING",
      "own-tool",
      "nproc",
    );
    expect(outputs).toEqual(["a page", "web:web 750", "web\n/srv/app\nit's /home/web", "mine", "1"]);
  });

  test("labels of SELinux, a device with an odd mode and owners that nobody has keep no image from working", async () => {
    const label = { "SCHILY.xattr.security.selinux": "system_u:object_r:shadow_t:s0\0" };
    const image = registry.add(
      "labelled",
      makeImage({
        layers: [
          busyboxLayer().map((file) => ({ ...file, pax: label })),
          [
            { path: "etc/selinux/config", content: "SELINUX=enforcing\nSELINUXTYPE=targeted\n", pax: label },
            { path: "dev/fuse", type: "3", device: [10, 229], mode: 0o600, uid: 7, gid: 7 },
            { path: "srv/theirs", content: "read me", mode: 0o644, pax: { uid: "4000000000" } },
          ],
        ],
        config: { Env: ["PATH=/bin"] },
      }),
    );
    const steps = Template().fromImage(image).runCmd("echo more >>/etc/profile", { user: "root" });
    await build(steps, "from-labelled");
    const outputs = await runIn(
      "from-labelled",
      "tail -n 1 /etc/profile",
      "cat /srv/theirs",
      "test -e /dev/fuse && stat -c '%a %t:%T' /dev/fuse || echo none",
    );
    expect(outputs).toEqual(["more", "read me", "666 a:e5"]);
  });

  test("three levels of templates: what the lowest ones say is inherited, and what a higher one says stands", async () => {
    const image = registry.add(
      "levels",
      makeImage({ layers: [busyboxLayer()], config: { Env: ["PATH=/bin", "A=image"] } }),
    );
    const serve = (port: number) => `echo "$A $B $(id -un) $(pwd)" >page; httpd -f -p ${port} -h .`;
    const ready = (port: number) => waitForURL(`http://localhost:${port}/page`);
    const first = Template()
      .fromImage(image)
      .runCmd("mkdir -p /srv/one && chmod 777 /srv/one", { user: "root" })
      .setEnvs({ B: "one" })
      .setUser("web")
      .setWorkdir("/srv/one");
    await build(first.setStartCmd(serve(8081), ready(8081)), "level-1");
    const second = Template().fromTemplate("level-1").setEnvs({ A: "two", B: "$B+two" }).setUser("user");
    await build(second.setWorkdir("/home/user").runCmd("echo $A $B >levels"), "level-2");
    const third = Template().fromTemplate("level-2").runCmd("echo three >>levels").setEnvs({ B: "three" });
    await build(third.setStartCmd(serve(8083), ready(8083)), "level-3");
    const page = (port: number) => `wget -qO- http://localhost:${port}/page`;
    const inherited = "image one web /srv/one";
    expect(await runIn("level-2", page(8081), "cat levels; whoami; pwd; echo $A $B")).toEqual([
      inherited,
      "two one+two\nuser\n/home/user\ntwo one+two",
    ]);
    // The start command of the first level goes on as it was begun, beside that of the third.
    expect(await runIn("level-3", page(8081), page(8083), "cat levels; echo $A $B")).toEqual([
      inherited,
      "two three user /home/user",
      "two one+two\nthree\ntwo three",
    ]);
  });

  test("a login for a private image is nowhere afterwards, whether it was right or wrong", async () => {
    const [username, password] = ["somebody-special", "s3cret-of-a-registry"];
    const basic = `Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`;
    const image = registry.add("private", makeImage({ layers: [[{ path: "a", content: "private" }]] }));
    registry.interfere = ({ url, headers }, response) => {
      if (!url?.startsWith("/v2/private/") || headers.authorization === basic) return false;
      refuse(response, 401, "UNAUTHORIZED", { "www-authenticate": 'Basic realm="r"' });
      return true;
    };
    const { lines } = await build(Template().fromImage(image, { username, password }), "from-private");
    const wrong = Template().fromImage(image, { username, password: `${password}-not` });
    const failure = await build(wrong, "from-private").catch(String);
    expect(failure).toContain(`access denied to '${image}': authentication required`);
    const openApi = await (await api("/openapi.json")).text();
    const { stateDir } = sharedDaemon();
    const caches = ["blobs", "assets/images"].map((folder) => join(cacheDir(), folder));
    // Disks and memory of guests are large, and nothing of the daemon's is in them.
    const find = ["find", stateDir, ...caches, "-type", "f", "-size", "-64M", "-exec"];
    for (const secret of [username, password, basic.slice(6, 30)]) {
      const [command = "", ...args] = [...find, "grep", "-lF", secret, "{}", "+"];
      const found = spawnSync(command, args, { encoding: "utf8" }).stdout;
      expect([found, lines.join("\n").includes(secret), openApi.includes(secret)]).toEqual(["", false, false]);
      expect(failure).not.toContain(secret);
    }
  });

  test("a pull that fails ends the build with the registry's reason, and leaves nothing reserved", async () => {
    const missing = `${registry.host}/nobody/nothing:v1`;
    const building = Template.build(Template().fromImage(missing), "missing", connection());
    await expect(building).rejects.toThrow(
      `image '${missing}' not found: the image or tag does not exist in the registry`,
    );
    expect(await reservations(sharedDaemon())).toBe(0);
    expect((await api("/templates/missing", { method: "DELETE" })).status).toBe(204);
  });
});
