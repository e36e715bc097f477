/** The rows of templates from images: an image to a disk, to a sandbox, steps from the cache, memory of a pull. */
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { promisify } from "node:util";
import { type BuildStatus, ControlApi } from "../../../src/commands/api.ts";
import { makeDiskInProcess } from "../../../src/template/image-disk/process.ts";
import { type Bench, type RowFamily, settle, timeMs } from "../bench.ts";
import { ImageRegistry, type Layer, makeLayer } from "../image-registry.ts";
import { distributionOf, interleave, type Row } from "../statistics.ts";

const run = promisify(execFile);
const never = new AbortController().signal;
const pollMs = 50;

/** A build under way or ended, of the template with this name. */
interface Build {
  readonly path: string;
  readonly name: string;
}

export const imageRows: RowFamily = {
  name: "images",
  async measure(bench) {
    const folder = await mkdtemp(join(bench.daemon.stateDir, "images-"));
    await using registry = await ImageRegistry.open();
    try {
      const part = bench.quick ? 10 : 1;
      const files = 40_000 / part;
      const many = await makeLayer(folder, "many", files, 26_000);
      const small = await makeLayer(folder, "small", 10, 1000);
      return [
        await diskRow(bench, folder, many, files),
        await firstSandboxRow(bench, folder, registry, 50 / part),
        ...(await templateRows(bench, registry.add("small", [small]))),
        await memoryRow(bench, registry, await makeLayer(folder, "huge", 200 / part, 10_000_000)),
      ];
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  },
};

/** The disk of an image, and `tar -x` of the same files, in turn. */
async function diskRow(bench: Bench, folder: string, layer: Layer, files: number): Promise<Row> {
  bench.progress("the disk of an image, and tar -x of its files, in turn");
  const { raw, measured } = await interleave(
    bench.quick ? 2 : 5,
    async () => {
      const target = join(folder, "untarred");
      await mkdir(target);
      const ms = await timeMs(async () => {
        await run("tar", ["-C", target, "-xf", layer.path]);
        await run("sync", ["-f", target]);
      });
      await rm(target, { recursive: true });
      return ms;
    },
    async () => {
      const target = join(folder, "disk");
      const order = {
        layers: [{ path: layer.path, sizeBytes: layer.sizeBytes, diffId: layer.digest }],
        target,
        envs: {},
        programs: undefined,
        limits: { maxEntries: 2_000_000, maxDiskMiB: 65_536 },
        minDiskMiB: 8192,
        minFreeMiB: 2048,
      };
      const ms = await timeMs(() =>
        makeDiskInProcess(
          withShell(order),
          () => {},
          never,
          async () => {},
        ),
      );
      await rm(target);
      return ms;
    },
  );
  const [ours, theirs] = [distributionOf(measured), distributionOf(raw)];
  const ratio = ours.p50 / theirs.p50;
  const what = `disk of an image: ${megabytes(layer)} MB in ${files} files; raw: tar -x and sync`;
  const result = `${ratio.toFixed(2)} × tar -x`;
  return { what, goal: "≤ 2 × tar -x", unit: "ms", measured: ours, raw: theirs, result, met: ratio <= 2 };
}

/** Any program does for a shell that nobody runs. */
function withShell<T extends object>(order: T) {
  return { ...order, programs: { bash: process.execPath, busybox: process.execPath, applets: [] } };
}

/** From an image that nobody pulled before to the first sandbox of its template. */
async function firstSandboxRow(bench: Bench, folder: string, registry: ImageRegistry, files: number): Promise<Row> {
  const times: number[] = [];
  let what = "";
  for (let round = 0; round < (bench.quick ? 1 : 3); round++) {
    const name = `large-${round}`;
    bench.progress("an image to its first sandbox");
    const layer = await makeLayer(folder, name, files, 10_000_000);
    const reference = registry.add(name, [layer]);
    // What the bench has just written is not the daemon's work.
    await run("sync", []);
    what = `image of ${megabytes(layer)} MB to its first sandbox`;
    const ms = await timeMs(async () => {
      await waitForBuild(bench, await startBuild(bench, `bench-${name}`, reference, []));
      await createAndKill(bench, `bench-${name}`);
    });
    times.push(ms / 1000);
    await rm(layer.path);
  }
  const measured = distributionOf(times);
  const result = `${measured.p50.toFixed(1)} s`;
  return { what, goal: "≤ 30 s for 500 MB", unit: "s", measured, result, met: measured.p50 <= 30 };
}

async function templateRows(bench: Bench, reference: string): Promise<Row[]> {
  bench.progress("three steps, and the same from the cache");
  const steps = ["one", "two", "three"].map((word) => `echo ${word} >>/home/user/steps`);
  await waitForBuild(bench, await startBuild(bench, "bench-small", reference, steps));
  const cached: number[] = [];
  for (let round = 0; round < (bench.quick ? 2 : 10); round++) {
    cached.push(
      await timeMs(async () => waitForBuild(bench, await startBuild(bench, "bench-small", reference, steps))),
    );
  }
  const limitMs = bench.raw.driver.info.engine === "gvisor" ? 1500 : 3000;
  const again = distributionOf(cached);
  bench.progress("create from base and from an image's template, in turn");
  const { raw, measured } = await interleave(
    bench.quick ? 5 : 50,
    () => createAndKill(bench, "base"),
    () => createAndKill(bench, "bench-small"),
  );
  const [ours, theirs] = [distributionOf(measured), distributionOf(raw)];
  const ratio = ours.p50 / theirs.p50;
  return [
    {
      what: "second build of three RUN steps",
      goal: `≤ ${limitMs} ms`,
      unit: "ms",
      measured: again,
      result: `${again.p50.toFixed(0)} ms`,
      met: again.p50 <= limitMs,
    },
    {
      what: "create from an image's template; raw: from base",
      goal: "± 10 %",
      unit: "ms",
      measured: ours,
      raw: theirs,
      result: `${ratio.toFixed(2)} × base`,
      met: ratio <= 1.1,
    },
  ];
}

/** How much more memory the daemon takes, at most, while it pulls an image and its disk is written. */
async function memoryRow(bench: Bench, registry: ImageRegistry, layer: Layer): Promise<Row> {
  bench.progress("the daemon's memory while it pulls");
  const { pid } = bench.daemon;
  const before = await memoryMiB(pid, "VmRSS");
  // The kernel's peak begins anew here.
  await writeFile(`/proc/${pid}/clear_refs`, "5");
  const build = await startBuild(bench, "bench-huge", registry.add("huge", [layer]), []);
  for (;;) {
    const { logEntries, status } = await statusOf(bench, build);
    const isPulled = logEntries.some(({ message }) => message.startsWith("Layers extracted"));
    if (status === "error") throw new Error("the image of the memory row was not pulled");
    if (isPulled) break;
    await delay(pollMs);
  }
  const growth = (await memoryMiB(pid, "VmHWM")) - before;
  await apiOf(bench).call("DELETE", build.path);
  const measured = distributionOf([growth]);
  const result = `${growth.toFixed(0)} MiB`;
  const what = `growth of the daemon's memory while it pulls ${megabytes(layer)} MB`;
  return { what, goal: "≤ 64 MiB for 2 GB", unit: "MiB", measured, result, met: growth <= 64 };
}

const megabytes = ({ sizeBytes }: Layer) => Math.round(sizeBytes / 1e6);

const apiOf = ({ daemon: { client } }: Bench) => new ControlApi(client.url, client.apiKey);

async function startBuild(bench: Bench, name: string, image: string, commands: readonly string[]): Promise<Build> {
  const api = apiOf(bench);
  const asked = await api.call<{ templateID: string; buildID: string }>("POST", "/v3/templates", { name });
  const path = `/templates/${asked.templateID}/builds/${asked.buildID}`;
  const steps = commands.map((command) => ({ type: "RUN", args: [command] }));
  await api.call("POST", `/v2${path}`, { fromImage: image, steps });
  return { path, name };
}

const statusOf = (bench: Bench, { path }: Build) =>
  apiOf(bench).call<BuildStatus>("GET", `${path}/status?logsOffset=0&limit=100`);

async function waitForBuild(bench: Bench, build: Build): Promise<void> {
  for (;;) {
    const { status, reason } = await statusOf(bench, build);
    if (status === "ready") return;
    if (status === "error") throw new Error(`a build failed: ${reason?.message}`);
    await delay(pollMs);
  }
}

/** @returns how long the create took, ms */
async function createAndKill({ daemon: { client } }: Bench, template: string): Promise<number> {
  const startedMs = performance.now();
  const sandbox = await client.create(template);
  const ms = performance.now() - startedMs;
  await client.kill(sandbox);
  await settle();
  return ms;
}

async function memoryMiB(pid: number, what: "VmRSS" | "VmHWM"): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return Number(new RegExp(`${what}:\\s+(\\d+)`).exec(status)?.[1] ?? Number.NaN) / 1024;
}
