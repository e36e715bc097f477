/**
 * `firkin-vz probe` on the simulated framework, alone and as a step of the Mac's report: it reaches its end whatever the
 * framework refuses, and each refusal is in its row and in the report's archive with the framework's own words.
 */
import { execFile } from "node:child_process";
import { copyFile, mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { describe, type TestContext, test } from "vitest";
import { installMac, makeReport } from "../support/fakes/mac-programs.ts";
import {
  missingForSimulation,
  type SimulatedFramework,
  simulateFramework,
} from "../support/fakes/simulated-framework.ts";
import { newShortFolder } from "../support/short-folder.ts";
import { titleOf } from "../support/skipped-title.ts";

const run = promisify(execFile);
/** Each step copies a disk, where the file system cannot clone one. */
const probeTimeoutMs = 600_000;
const missing = await missingForSimulation();

interface Row {
  readonly step: string;
  readonly ok: boolean;
  readonly ms: number;
  readonly note?: string;
  readonly error?: {
    readonly code: string;
    readonly message: string;
    readonly domain?: string;
    readonly number?: number;
  };
}

const title = titleOf("the probe, on the simulated framework", missing);

// The probe waits most of the time, so the tests run side by side, each on a Mac of its own.
describe.skipIf(missing)(title, { timeout: probeTimeoutMs, concurrent: true }, () => {
  async function newFolder(onTestFinished: TestContext["onTestFinished"]): Promise<string> {
    const folder = await newShortFolder();
    onTestFinished(() => rm(folder, { recursive: true, force: true }));
    return folder;
  }

  async function probe(
    { helper, kernel, initramfs, baseDisk }: SimulatedFramework,
    folder: string,
    ...options: string[]
  ): Promise<Row[]> {
    await mkdir(join(folder, "p"));
    const { stdout } = await run(helper, ["probe", join(folder, "p"), kernel, initramfs, baseDisk, ...options]);
    return stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Row);
  }
  const noteOf = (rows: readonly Row[], step: string) => rows.find((row) => row.step === step)?.note;

  test("every step is done, and tells what the framework does", async ({ expect, onTestFinished }) => {
    const root = await newFolder(onTestFinished);
    const rows = await probe(await simulateFramework(join(root, "mac")), root);
    expect(rows.filter(({ ok }) => !ok)).toEqual([]);
    expect(rows.at(-1)?.step).toBe("end");
    expect(noteOf(rows, "two at once")).toMatch(/refused: framework: Ungültiges Argument.*VZErrorDomain 12/);
    expect(noteOf(rows, "reset by the guest")).toMatch(/no end within 10 s; the console has \d+ panics/);
    expect(noteOf(rows, "power-off by the guest")).toBe("the guest powered itself off");
    expect(noteOf(rows, "vsock before the guest listens")).toMatch(/refused/);
    const steps = rows.map(({ step }) => step);
    for (const name of ["full", "without-entropy", "without-network", "without-both", "with-console"]) {
      expect(steps).toEqual(expect.arrayContaining([`validate ${name}`, `save ${name}`, `restore after stop ${name}`]));
    }
    expect(steps).toEqual(
      expect.arrayContaining(["save beside another machine", "restore after the owner was killed"]),
    );
  });

  test.for(["validate", "validateSaveRestore", "start", "pause", "stop", "save", "restore"])(
    "a framework that refuses to %s does not keep it from its end",
    async (call, { expect, onTestFinished }) => {
      const folder = await newFolder(onTestFinished);
      const mac = await simulateFramework(join(folder, "mac"), { refuse: [call] });
      // Without an agent a guest needs no more than folders.
      const [tree, baseDisk] = [join(folder, "tree"), join(folder, "folders.ext4")];
      for (const name of ["dev", "proc", "run", "tmp"]) await mkdir(join(tree, name), { recursive: true });
      await run("mke2fs", ["-q", "-t", "ext4", "-d", tree, baseDisk, "16M"]);
      const rows = await probe({ ...mac, baseDisk }, folder, "--without-agent");
      expect(rows.at(-1)).toMatchObject({ step: "end", ok: true });
      const refused = rows.filter(({ error }) => error?.message.includes(`„${call}“`));
      expect(refused[0]?.error).toMatchObject({
        code: "framework",
        domain: "VZErrorDomain",
        number: expect.any(Number),
      });
    },
  );

  test("the report of a Mac has what the probe found", async ({ expect, onTestFinished }) => {
    const root = await newFolder(onTestFinished);
    const mac = await simulateFramework(join(root, "mac"), { refuse: ["entropy"] });
    await installMac(root, "", ["probe"], mac.helper);
    const { kernel, initramfs, baseDisk } = mac;
    await writeFile(join(root, "cache/assets/assets.json"), JSON.stringify({ kernel, initramfs, baseDisk }));
    await copyFile(`${mac.helper}.simulated.json`, join(root, "cache/assets/vz/firkin-vz.simulated.json"));
    const { status, files } = await makeReport(root);
    expect(status).toBe(1);
    const { results } = JSON.parse(files.get("report.json") ?? "") as { results: { name: string; reason?: string }[] };
    const reason = results.find(({ name }) => name === "probe")?.reason;
    expect(reason).toMatch(/restore after stop full \(Der Vorgang „entropy“ ist fehlgeschlagen/);
    expect(files.get("probe.log")).toMatch(/"step":"restore after stop without-entropy"/);
    expect(reason).not.toContain("without-entropy");
    expect(files.get("probe.log")).toContain("Linux version");
  });
});
