/**
 * A job of real size, as people build them: a Debian image from a registry with a password, packages of PyPI and npm on
 * top, a program that is compiled, two services. Built by the SDK and by `firkin build`, asked through the daemon, and
 * forked ten times. `npm run test:real-job` runs it.
 */
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Sandbox, Template, waitForURL } from "e2b";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ControlApi } from "../../src/commands/api.ts";
import { runTemplateCommand } from "../../src/commands/templates.ts";
import { cacheDir, missingForRealMachines, type RealDaemon, startDaemon } from "../support/daemon/real-daemon.ts";
import { connectionTo, reservations } from "../support/daemon/requests.ts";
import { type DockerRegistry, login, missingPrograms, startDockerRegistry } from "../support/images/docker-registry.ts";
import { tagged, writeLayout } from "../support/images/layout.ts";
import { makeImage } from "../support/images/make-image.ts";
import { titleOf } from "../support/skipped-title.ts";

const wanted = process.env.FIRKIN_TEST_REAL_JOB === "all";
const missing = wanted ? (missingForRealMachines() ?? (missingPrograms || undefined)) : "npm run test:real-job";
const forks = 10;
const sum = 499_500;

const files = {
  "service/sums.py": `import flask, numpy, pandas
app = flask.Flask("sums")
@app.get("/sum")
def sum_of_numbers():
    return {"sum": int(pandas.DataFrame({"n": numpy.arange(1000)})["n"].sum())}
app.run(port=8000)
`,
  // Compiled in the build, by the TypeScript of the application.
  "service/server.ts": `declare const require: any;
const app = require("express")();
let count = 0;
const sums = async () => (await fetch("http://127.0.0.1:8000/sum")).json();
app.get("/health", (_: unknown, answer: any) => sums().then(() => answer.send("ok"), () => answer.status(503).end()));
app.get("/", async (_: unknown, answer: any) => answer.json({ ...(await sums()), count: ++count }));
app.listen(3000);
`,
  "service/start.sh": "python3 sums.py &\nexec node built/server.js\n",
};

const install = "pip install --break-system-packages --no-index --find-links /opt/wheels flask numpy pandas";
const compile = "node_modules/.bin/tsc --target es2019 --module commonjs --skipLibCheck --outDir built server.ts";

const dockerfile = (image: string) => `FROM ${image}
COPY wheels /opt/wheels
RUN ${install}
WORKDIR /srv/app
COPY application/ ./
COPY service/ ./
RUN ${compile}
USER user
CMD ["sh", "start.sh"]
`;

describe.skipIf(missing)(titleOf("a job of real size", missing), { timeout: 1_200_000 }, () => {
  let folder: string;
  let registry: DockerRegistry;
  let daemon: RealDaemon;
  let image: string;

  beforeAll(async () => {
    const made = join(cacheDir(), "assets", "real-job");
    folder = await mkdtemp(join(tmpdir(), "firkin-job-"));
    registry = await startDockerRegistry();
    image = `${registry.host}/company/debian:stable`;
    const root = makeImage({ layers: [await readFile(join(made, "debian.tar"))] });
    const mediaType = "application/vnd.oci.image.manifest.v1+json";
    const entry = tagged("stable", { mediaType, digest: root.digest, size: root.manifest.length });
    await writeLayout(join(folder, "layout"), [...root.blobs, [root.digest, root.manifest]], [entry]);
    await registry.push(`oci:${join(folder, "layout")}:stable`, "company/debian:stable");
    await rm(join(folder, "layout"), { recursive: true });

    const context = join(folder, "context");
    for (const name of ["wheels", "application"]) {
      await cp(join(made, name), join(context, name), { recursive: true, verbatimSymlinks: true });
    }
    await mkdir(join(context, "service"));
    for (const [name, text] of Object.entries(files)) await writeFile(join(context, name), text);
    await writeFile(join(context, "Dockerfile"), dockerfile(image));

    // As \`docker login\` leaves it.
    const auth = Buffer.from(`${login.username}:${login.password}`).toString("base64");
    await writeFile(join(folder, "config.json"), JSON.stringify({ auths: { [registry.host]: { auth } } }));
    const budgets = ["--vcpu-budget", "64", "--memory-budget-mib", "16384"];
    daemon = await startDaemon({ args: budgets, env: { DOCKER_CONFIG: folder } });
  }, 600_000);

  afterAll(async () => {
    await daemon?.[Symbol.asyncDispose]();
    await registry?.[Symbol.asyncDispose]();
    await rm(folder, { recursive: true, force: true });
  });

  /** What the service of a sandbox answers, through the daemon. */
  async function ask({ sandboxId }: { readonly sandboxId: string }): Promise<unknown> {
    const answer = await fetch(daemon.url, { headers: { "e2b-sandbox-id": sandboxId, "e2b-sandbox-port": "3000" } });
    const text = await answer.text();
    return answer.ok ? JSON.parse(text) : text;
  }

  /** Starts a sandbox of the template, and lets it and ten forks of it serve. */
  async function use(template: string): Promise<void> {
    const sandbox = await Sandbox.create(template, { ...connectionTo(daemon), timeoutMs: 900_000 });
    expect(await ask(sandbox)).toEqual({ sum, count: 1 });
    expect((await sandbox.commands.run("whoami; pwd")).stdout).toBe("user\n/srv/app\n");
    const children = await sandbox.fork({ count: forks, timeoutMs: 900_000 });
    const all = [sandbox, ...children.flatMap((child) => (child instanceof Error ? [] : [child]))];
    expect([all.length, children.filter((child) => child instanceof Error)]).toEqual([forks + 1, []]);
    // Each goes on from the same number, at the same time, and counts for itself.
    for (const count of [2, 3]) {
      expect(await Promise.all(all.map((each) => ask(each)))).toEqual(all.map(() => ({ sum, count })));
    }
    await Promise.all(all.map((each) => each.kill()));
    await expect.poll(() => reservations(daemon)).toBe(0);
  }

  test("built by the SDK, it serves from the first moment, and so do ten forks", async () => {
    const template = Template({ fileContextPath: join(folder, "context") })
      .fromImage(image, login)
      .setUser("root")
      .copy("wheels", "/opt/wheels")
      .runCmd(install)
      .copy("application/", "/srv/app/")
      .copy("service/", "/srv/app/")
      .setWorkdir("/srv/app")
      .runCmd(compile)
      .setUser("user")
      .setStartCmd("sh start.sh", waitForURL("http://localhost:3000/health"));
    await Template.build(template, "job-of-sdk", { ...connectionTo(daemon), cpuCount: 1, memoryMB: 512 });
    await use("job-of-sdk");
  });

  test("built by firkin build with the login of the host, it serves, and so do ten forks", async () => {
    const lines: string[] = [];
    const order = [join(folder, "context"), "-t", "job-of-command", "--cpu", "1", "--memory", "512"];
    const api = new ControlApi(daemon.url, daemon.apiKey);
    await runTemplateCommand("build", order, api, (line) => lines.push(line), new AbortController().signal);
    expect(lines.join("\n")).toContain("Template is ready");
    await use("job-of-command");
  });
});
