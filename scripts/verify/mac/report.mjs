/**
 * The report of a Mac (`scripts/verify/verify-macos`): runs every step, prints one line for each, and packs everything
 * that explains a failure into one archive without the user's name and the Mac's serial number.
 */
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import { join } from "node:path";
import { helperPath } from "../../setup/helper.mjs";
import { storageRoots } from "../../setup/roots.mjs";
import { askSystem } from "../../setup/swift-tools.mjs";
import { collectFailure, copyLogs, packReport } from "./archive.mjs";
import { gatherFacts, privateWords } from "./facts.mjs";
import { askAtTerminal, unaskedByHand } from "./questions.mjs";
import { runSteps } from "./runner.mjs";
import { stepsBeforeSetUp, stepsFromSetUp } from "./steps.mjs";

const marks = { passed: "✓", failed: "✗", "timed out": "✗", "not run": "–" };
const usage = "usage: scripts/verify/verify-macos [--no-questions] [--to FOLDER]";

/**
 * @typedef {object} Options
 * @property {string} folder The report's, new.
 * @property {boolean} questions Whether a person is asked.
 * @property {boolean} rehearse On another system, with stand-ins for the Mac's programs.
 */

/**
 * @param {readonly string[]} args
 * @returns {Options}
 */
function readOptions(args) {
  const known = ["--no-questions", "--to", "--rehearse"];
  const to = args.indexOf("--to");
  const unknown = args.find((word, index) => !known.includes(word) && (to < 0 || index !== to + 1));
  if (unknown !== undefined || (to >= 0 && !args[to + 1]))
    throw new Error(`${unknown ?? "--to without a folder"}; ${usage}`);
  const stamp = new Date().toISOString().replaceAll(":", "").slice(0, 15);
  const questions = !args.includes("--no-questions") && process.stdin.isTTY === true;
  const folder = args[to + 1];
  return {
    folder: to >= 0 && folder ? folder : `/tmp/firkin-macos-${stamp}`,
    questions,
    rehearse: args.includes("--rehearse"),
  };
}

/** @param {import("./runner.mjs").Result} result */
function line({ outcome, title, ms, reason }) {
  return `${marks[outcome]} ${title} (${outcome}, ${(ms / 1000).toFixed(1)} s)${reason ? `\n    ${reason}` : ""}`;
}

/**
 * @param {readonly string[]} args
 * @returns {Promise<number>} the exit status: 0 when no step failed
 */
async function report(args) {
  const { folder, questions, rehearse } = readOptions(args);
  if (process.platform !== "darwin" && !rehearse) {
    console.error(`verify-macos: this is ${process.platform}, but the report needs a Mac`);
    return 2;
  }
  const startedMs = Date.now();
  fs.mkdirSync(folder, { mode: 0o700 });
  const scratch = fs.mkdtempSync("/tmp/fk-");
  const roots = storageRoots();
  const helper = helperPath(roots);
  const commit = execFileSync("git", ["-C", roots.repository, "rev-parse", "HEAD"], { encoding: "utf8" }).trim();
  console.log(`# firkin ${commit.slice(0, 12)} on macOS, ${new Date(startedMs).toISOString()}\n`);
  fs.writeFileSync(join(folder, "facts.md"), `firkin ${commit}\n\n${gatherFacts(roots, helper)}`);
  const developerFolder = askSystem("xcode-select", ["--print-path"]).output.trim();
  const place = { roots, helper, folder, scratch, developerFolder };
  const steps = [...stepsBeforeSetUp(place), ...stepsFromSetUp(place)];
  const results = await runSteps(steps, folder, (result) => console.log(line(result)));
  const failed = results.filter(({ outcome }) => outcome === "failed" || outcome === "timed out");
  copyLogs(roots, [roots.state, scratch], folder);
  if (failed.length > 0) collectFailure(folder, startedMs);
  const byHand = questions ? await askAtTerminal(process.stdin, process.stdout) : unaskedByHand();
  fs.writeFileSync(join(folder, "by-hand.md"), byHand);
  const notRun = results.filter(({ outcome }) => outcome === "not run").length;
  const sum = `${results.length - failed.length - notRun} passed, ${failed.length} failed, ${notRun} not run`;
  fs.writeFileSync(join(folder, "report.md"), `${results.map(line).join("\n")}\n\n${sum}\n`);
  fs.writeFileSync(join(folder, "report.json"), `${JSON.stringify({ commit, results }, null, 2)}\n`);
  const archive = packReport(folder, privateWords());
  fs.rmSync(scratch, { recursive: true, force: true });
  console.log(`\n${sum}\n${archive}\nLook through the files in ${folder} before you send the archive.`);
  return failed.length === 0 ? 0 : 1;
}

process.exitCode = await report(process.argv.slice(2));
