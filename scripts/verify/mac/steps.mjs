/**
 * The steps of the Mac's report, in an order in which a late failure costs nothing that is known earlier: facts, build,
 * what the framework does, set-up, the suite of all engines, a daemon.
 */
import * as fs from "node:fs";
import { join } from "node:path";
import { cpioArchive } from "../../setup/cpio.mjs";
import { readJson } from "../../setup/files.mjs";
import { swiftTestArguments } from "../../setup/swift-tools.mjs";

/** @typedef {import("./runner.mjs").Step} Step */

const minute = 60_000;

/**
 * @typedef {object} Place
 * @property {import("../../setup/roots.mjs").Roots} roots
 * @property {string} helper
 * @property {string} folder The report's.
 * @property {string} scratch For sockets, machines and saved states: a short path.
 * @property {string} developerFolder As `xcode-select --print-path` prints it.
 */

/**
 * Everything that can be known before the set-up has made the files of guests.
 * @param {Place} place
 * @returns {Step[]}
 */
export function stepsBeforeSetUp({ roots, helper, scratch, developerFolder }) {
  const { repository } = roots;
  const script = (/** @type {string} */ path) => join(repository, "scripts", path);
  return [
    {
      name: "build-helper",
      title: "the helper compiles, and is signed with its entitlement",
      command: script("setup/build-helper"),
      args: [helper],
      limitMs: 20 * minute,
    },
    {
      name: "swift-test",
      title: "the package passes its tests",
      command: "swift",
      args: swiftTestArguments(join(repository, "helper-swift"), developerFolder),
      limitMs: 20 * minute,
      notRunBecause: missingTestLibrary,
    },
    {
      name: "mac-files",
      title: "the set-up as far as it goes without a machine; the Mac's tar makes an initramfs",
      command: "node",
      args: [script("verify/mac-files.mjs")],
      limitMs: 30 * minute,
    },
    {
      name: "probe-kernel",
      title: "the framework boots, saves and restores a kernel without the guest agent",
      command: "node",
      args: [script("verify/mac/probe.mjs"), helper, join(scratch, "probe-kernel"), "--without-agent"],
      limitMs: 15 * minute,
      needs: ["build-helper", "mac-files"],
      failedBecause: failedSteps,
    },
  ];
}

/**
 * @param {Place} place
 * @returns {Step[]}
 */
export function stepsFromSetUp({ roots, helper, folder, scratch }) {
  const { repository } = roots;
  const script = (/** @type {string} */ path) => join(repository, "scripts", path);
  const firkin = script("cli/firkin.mjs");
  return [
    {
      name: "set-up",
      title: "the set-up makes everything, the agent and the root disk in guests on Apple's framework",
      command: "node",
      args: [firkin, "setup"],
      limitMs: 90 * minute,
    },
    {
      name: "probe",
      title: "the framework with the real guest: consoles, streams, ends, saves, restores, two at once",
      command: "node",
      args: [script("verify/mac/probe.mjs"), helper, join(scratch, "probe")],
      limitMs: 20 * minute,
      needs: ["set-up"],
      failedBecause: failedSteps,
    },
    {
      name: "doctor",
      title: "doctor finds all requirements met",
      command: "node",
      args: [firkin, "doctor"],
      limitMs: 2 * minute,
    },
    {
      name: "packages",
      title: "the npm packages of the tests",
      command: "npm",
      args: ["ci", "--prefix", repository, "--include=dev", "--no-audit", "--no-fund"],
      limitMs: 20 * minute,
    },
    {
      name: "suite",
      title: "boot, save, restore, pause, adopt: the suite of all engines",
      command: "node",
      args: [
        join(repository, "node_modules/vitest/vitest.mjs"),
        ...["run", "--config", join(repository, "test/vitest.mac.config.ts")],
        ...["--reporter=default", "--reporter=json", `--outputFile.json=${join(folder, "suite.json")}`],
      ],
      env: { FIRKIN_VZ_ASSETS: join(roots.assets, "assets.json"), FIRKIN_VZ_HELPER: helper, TMPDIR: scratch },
      limitMs: 60 * minute,
      needs: ["set-up", "packages"],
    },
    {
      name: "daemon",
      title: "a daemon: the example, killed and taken over, pause, resume",
      command: "node",
      args: [script("verify/mac/daemon.mjs"), join(scratch, "state")],
      limitMs: 30 * minute,
      needs: ["set-up", "packages"],
    },
  ];
}

/**
 * A failure of the compiler's installation and not of the package.
 * @param {string} output
 */
export function missingTestLibrary(output) {
  return /no such module 'Testing'|plugin for module 'TestingMacros' not found/.test(output)
    ? "these command line tools have no library for tests; Xcode has one"
    : undefined;
}

/**
 * The names of the probe's steps that failed, with what the framework said.
 * @param {string} output
 */
export function failedSteps(output) {
  const rows = output.split("\n").flatMap((line) => {
    if (!line.startsWith("{")) return [];
    try {
      return [/** @type {{ step?: string, ok?: boolean, error?: { message?: string } }} */ (JSON.parse(line))];
    } catch (error) {
      if (error instanceof SyntaxError) return [];
      throw error;
    }
  });
  if (!rows.some(({ step }) => step === "end")) return "the probe did not reach its end";
  const failed = rows.filter(({ ok }) => ok === false).map(({ step, error }) => `${step} (${error?.message ?? "?"})`);
  return failed.length === 0 ? undefined : failed.join("; ");
}

/**
 * What the probe boots: the files of guests, or a kernel with an empty initramfs and an empty disk.
 * @param {import("../../setup/roots.mjs").Roots} roots
 * @param {string} folder New.
 * @param {string | undefined} kernel
 * @returns {readonly [kernel: string, initramfs: string, disk: string]}
 * @throws {Error} when there is no kernel
 */
export function probeFiles(roots, folder, kernel) {
  fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
  if (kernel === undefined) {
    const assets = readJson(join(roots.assets, "assets.json"));
    if (!assets) throw new Error(`there is no ${join(roots.assets, "assets.json")}: the set-up makes it`);
    return [assets.kernel, assets.initramfs, assets.baseDisk];
  }
  const [initramfs, disk] = [join(folder, "empty.cpio"), join(folder, "empty.img")];
  fs.writeFileSync(initramfs, cpioArchive([]));
  fs.writeFileSync(disk, Buffer.alloc(2 ** 20));
  return [kernel, initramfs, disk];
}
