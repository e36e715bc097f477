/** Observability: metrics that a stock Prometheus scrapes, counted latencies, logs that name their sandbox. */
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { testedEngine } from "../support/daemon/engine-processes.ts";
import { type DaemonHome, makeDaemonHome } from "../support/daemon/home.ts";
import { missingForRealMachines, type RealDaemon } from "../support/daemon/real-daemon.ts";
import { call, createOn, logLines, reservations } from "../support/daemon/requests.ts";
import { titleOf } from "../support/skipped-title.ts";

const missing = missingForRealMachines();
const hasPrometheus = spawnSync("prometheus", ["--version"]).status === 0;
const withoutPrometheus = !hasPrometheus && "there is no prometheus on PATH";

const sandboxes = 3;

describe.skipIf(missing)("observability", () => {
  let home: DaemonHome;
  let daemon: RealDaemon;
  const ids: string[] = [];

  beforeAll(async () => {
    home = await makeDaemonHome({ firstStart: true });
    daemon = await home.start();
    for (let n = 0; n < sandboxes; n++) {
      const sandbox = await createOn(daemon);
      ids.push(sandbox.sandboxId);
      await sandbox.commands.run("echo hi");
      await sandbox.commands.run("echo again");
      await sandbox.kill();
    }
    await vi.waitFor(async () => expect(await reservations(daemon)).toBe(0), { timeout: 30_000 });
  });
  afterAll(async () => {
    await daemon?.[Symbol.asyncDispose]();
    await home?.[Symbol.asyncDispose]();
  });

  const expectedCounts = {
    cold_template_build: 1,
    snapshot_save: 1,
    warm_snapshot_restore: sandboxes,
    ready_probe: sandboxes,
    command_start: 2 * sandboxes,
    first_stdout_byte: 2 * sandboxes,
    "start.resume_to_first_stdout_ms": sandboxes,
    kill_delete: sandboxes,
  };

  test("every span of a sandbox's life is counted and has its percentiles", async () => {
    const measured = async () =>
      ((await (await call(daemon, "/benchmarks")).json()) as { benchmarks: Benchmark[] }).benchmarks;
    const counts = async () => Object.fromEntries((await measured()).map(({ span, n }) => [span, n]));
    await expect.poll(counts).toEqual(expectedCounts);
    const benchmarks = await measured();
    const scenarios = Object.fromEntries(benchmarks.map(({ span, scenario }) => [span, scenario]));
    expect(scenarios).toMatchObject({
      cold_template_build: "base_template",
      ready_probe: "create",
      command_start: "create",
      kill_delete: "killed",
    });
    for (const { engine, acceleration, p50Ms, p90Ms, p95Ms, p99Ms } of benchmarks) {
      expect(engine).toBe(testedEngine);
      expect(testedEngine === "gvisor" ? ["none"] : ["kvm", "tcg"]).toContain(acceleration);
      expect([p50Ms, p90Ms, p95Ms, p99Ms]).toEqual([p50Ms, p90Ms, p95Ms, p99Ms].sort((a, b) => a - b));
      expect(p50Ms).toBeGreaterThan(0);
    }
  });

  test("the histograms have the same counts, and need no key on this host", async () => {
    const text = await (await fetch(`${daemon.url}/metrics`)).text();
    for (const [span, n] of Object.entries(expectedCounts)) {
      expect(text).toMatch(new RegExp(`firkin_lifecycle_seconds_count\\{span="${span}",.*\\} ${n}\n`));
    }
    expect(text).toContain('firkin_sandboxes_created_total{outcome="created"} 3');
    expect(text).toContain('firkin_sandboxes_ended_total{reason="killed"} 3');
    for (const id of ids) expect(text).not.toContain(id);
  });

  test("every log line about a sandbox carries its id and that of its session", () => {
    for (const id of ids) {
      const lines = logLines(daemon).filter(({ sandboxID }) => sandboxID === id);
      expect(lines.map(({ msg }) => msg)).toEqual(["sandbox running", "sandbox ending"]);
      expect(new Set(lines.map(({ sessionID }) => sessionID)).size).toBe(1);
      expect(lines[0]?.sessionID).toMatch(/^[0-9a-f]{32}$/);
    }
  });

  test.skipIf(withoutPrometheus)(titleOf("a stock Prometheus scrapes the daemon", withoutPrometheus), async () => {
    const folder = await mkdtemp(join(tmpdir(), "fk-prometheus-"));
    const port = await freePort();
    const target = new URL(daemon.url).host;
    const config = {
      scrape_configs: [{ job_name: "firkin", scrape_interval: "1s", static_configs: [{ targets: [target] }] }],
    };
    await writeFile(join(folder, "prometheus.yml"), JSON.stringify(config));
    const prometheus = spawn(
      "prometheus",
      [
        `--config.file=${join(folder, "prometheus.yml")}`,
        `--storage.tsdb.path=${join(folder, "data")}`,
        `--web.listen-address=127.0.0.1:${port}`,
      ],
      { stdio: "ignore" },
    );
    try {
      const query = async (text: string) => {
        const answer = await fetch(`http://127.0.0.1:${port}/api/v1/query?query=${encodeURIComponent(text)}`);
        const { data } = (await answer.json()) as { data: { result: { value: [number, string] }[] } };
        return data.result[0]?.value[1];
      };
      const ask = (text: string) => query(text).catch(() => undefined);
      await expect.poll(() => ask('up{job="firkin"}'), { timeout: 60_000, interval: 500 }).toBe("1");
      expect(await ask('firkin_lifecycle_seconds_count{span="kill_delete"}')).toBe(String(sandboxes));
      const median = 'histogram_quantile(0.5, firkin_lifecycle_seconds_bucket{span="warm_snapshot_restore"})';
      expect(Number(await ask(median))).toBeGreaterThan(0);
    } finally {
      await end(prometheus);
      await rm(folder, { recursive: true, force: true });
    }
  });

  test.skipIf(withoutPrometheus)("promtool finds no fault in the metrics", async () => {
    const input = await (await fetch(`${daemon.url}/metrics`)).text();
    expect(execFileSync("promtool", ["check", "metrics"], { input, encoding: "utf8" })).toBe("");
  });
});

interface Benchmark {
  readonly span: string;
  readonly scenario: string;
  readonly engine: string;
  readonly acceleration: string;
  readonly n: number;
  readonly p50Ms: number;
  readonly p90Ms: number;
  readonly p95Ms: number;
  readonly p99Ms: number;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill("SIGKILL");
  await once(child, "exit");
}
