/**
 * The report of a host with KVM (`scripts/verify/verify-kvm`): facts, the doctor, the conformance suite, the SDK suite and
 * a quick bench, all with `--accel kvm`, and one archive of their output.
 */
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { hostname, userInfo } from "node:os";
import { join } from "node:path";
import { storageRoots } from "../setup/roots.mjs";
import { packReport } from "./mac/archive.mjs";
import { runSteps } from "./mac/runner.mjs";

const minuteMs = 60_000;
const marks = { passed: "✓", failed: "✗", "timed out": "✗", "not run": "–" };

/** What explains how KVM behaves on a host. A command that is missing is a fact, too. */
const questions = [
  "uname -srvm",
  "systemd-detect-virt",
  "lscpu",
  "ls -l /dev/kvm",
  "id",
  "grep -H . /sys/module/kvm*/parameters/*",
  "cat /sys/devices/system/clocksource/clocksource0/current_clocksource",
  "qemu-system-x86_64 --version",
  "dmesg | grep -i kvm | tail -n 40",
];

/** @returns {string} */
function gatherFacts() {
  return questions
    .map((question) => {
      const { stdout, stderr } = spawnSync("sh", ["-c", question], { encoding: "utf8" });
      return `## ${question}\n\n${stdout}${stderr}\n`;
    })
    .join("\n");
}

/**
 * @param {string} repository
 * @param {string} folder
 * @returns {import("./mac/runner.mjs").Step[]}
 */
function steps(repository, folder) {
  const cli = (/** @type {string} */ name) => join(repository, "scripts/cli", name);
  const env = { FIRKIN_ACCEL: "kvm" };
  const step = (
    /** @type {string} */ name,
    /** @type {string} */ title,
    /** @type {readonly string[]} */ args,
    /** @type {number} */ minutes,
    /** @type {readonly string[]} */ needs,
  ) => ({ name, title, command: process.execPath, args, env, limitMs: minutes * minuteMs, needs });
  const bench = ["scripts/bench/main.js", "--quick", "--json", join(folder, "bench.json")];
  return [
    step("setup", "set-up", [cli("firkin.mjs"), "setup"], 30, []),
    step("doctor", "doctor", [cli("firkin.mjs"), "doctor"], 5, ["setup"]),
    step("conformance", "conformance suite", [cli("test.mjs"), "test/vm/qemu-driver"], 20, ["setup"]),
    step("sdk", "SDK suite", [cli("test.mjs"), "test/sdk"], 60, ["setup"]),
    step("bench", "bench --quick", [cli("run-built.mjs"), ...bench], 30, ["setup"]),
  ];
}

/**
 * @param {readonly string[]} args
 * @returns {Promise<number>} the exit status: 0 when no step failed
 */
async function report(args) {
  const to = args.indexOf("--to");
  const stamp = new Date().toISOString().replaceAll(":", "").slice(0, 15);
  const folder = (to >= 0 ? args[to + 1] : undefined) ?? `/tmp/firkin-kvm-${stamp}`;
  if (!fs.existsSync("/dev/kvm")) {
    console.error("verify-kvm: there is no /dev/kvm here");
    return 2;
  }
  const { repository } = storageRoots();
  fs.mkdirSync(folder, { mode: 0o700 });
  const commit = spawnSync("git", ["-C", repository, "rev-parse", "HEAD"], { encoding: "utf8" }).stdout.trim();
  fs.writeFileSync(join(folder, "facts.md"), `firkin ${commit}\n\n${gatherFacts()}`);
  const results = await runSteps(steps(repository, folder), folder, ({ outcome, title, ms, reason }) =>
    console.log(`${marks[outcome]} ${title} (${outcome}, ${(ms / 1000).toFixed(0)} s)${reason ? `: ${reason}` : ""}`),
  );
  fs.writeFileSync(join(folder, "report.json"), `${JSON.stringify({ commit, results }, null, 2)}\n`);
  /** @type {readonly (readonly [string, string])[]} */
  const words = [
    [hostname(), "HOST"],
    [process.env.SUDO_USER ?? userInfo().username, "USER"],
  ];
  const archive = packReport(folder, new Map(words.filter(([word]) => word !== "root" && word.length > 2)));
  console.log(`\n${archive}\nLook through the files in ${folder} before you send the archive.`);
  return results.every(({ outcome }) => outcome === "passed") ? 0 : 1;
}

process.exitCode = await report(process.argv.slice(2));
