/** The facts about a Mac that explain what a report says: its system, its tools, its screen and its disks. */
import { homedir, tmpdir } from "node:os";
import { askSystem } from "../../setup/swift-tools.mjs";

/** @typedef {import("../../setup/swift-tools.mjs").Ask} Ask */

/**
 * Title → program and arguments.
 * @param {import("../../setup/roots.mjs").Roots} roots
 * @param {string} helper
 * @returns {readonly (readonly [string, string, ...string[]])[]}
 */
function questions(roots, helper) {
  const home = homedir();
  return [
    ["system", "sw_vers"],
    ["processor", "sysctl", "-n", "machdep.cpu.brand_string"],
    ["architecture", "uname", "-m"],
    ["memory, bytes", "sysctl", "-n", "hw.memsize"],
    ["virtualization", "sysctl", "kern.hv_support"],
    ["developer folder", "xcode-select", "--print-path"],
    ["Swift", "xcrun", "swift", "--version"],
    ["SDK", "xcrun", "--show-sdk-version"],
    ["command line tools", "pkgutil", "--pkg-info", "com.apple.pkg.CLTools_Executables"],
    ["Node.js", process.execPath, "-p", "process.version + ' ' + process.arch"],
    ["launchd's session", "launchctl", "managername"],
    ["user", "id", "-u"],
    ["screen", "ioreg", "-n", "Root", "-d1"],
    ["disks", "df", "-h", home, "/tmp"],
    ["file system of the home folder", "diskutil", "info", "/System/Volumes/Data"],
    ["Time Machine", "tmutil", "isexcluded", roots.cache, roots.state],
    ["language", "defaults", "read", "-g", "AppleLanguages"],
    ["locale", "locale"],
    ["tar", "tar", "--version"],
    ["curl", "curl", "--version"],
    ["machines of the framework that run", "pgrep", "-lf", "com.apple.Virtualization.VirtualMachine"],
    ["helpers that run", "pgrep", "-lf", "firkin-vz"],
    ["signature of the helper", "codesign", "-dvvv", "--entitlements", "-", helper],
    ["sleep", "pmset", "-g"],
  ];
}

/**
 * The answers of the Mac's programs, as text. A program that is missing or fails is named with what it said.
 * @param {import("../../setup/roots.mjs").Roots} roots
 * @param {string} helper
 * @param {Ask} [ask]
 */
export function gatherFacts(roots, helper, ask = askSystem) {
  const answers = questions(roots, helper).map(([title, command, ...args]) => {
    const { status, output } = ask(command, args);
    const head = `## ${title}\n$ ${[command, ...args].join(" ")}`;
    return `${head}${status === 0 ? "" : `\n(exit code ${status})`}\n${output.trimEnd()}\n`;
  });
  const own = `## this process\ncwd ${process.cwd()}\nTMPDIR ${tmpdir()}\nSSH ${process.env.SSH_CONNECTION ? "yes" : "no"}\n`;
  return [...answers, own].join("\n");
}

/**
 * Words that say who the user and the Mac are, to be taken out of everything that is handed on.
 * @param {Ask} [ask]
 * @returns {Map<string, string>} Word → what stands for it.
 */
export function privateWords(ask = askSystem) {
  const platform = ask("ioreg", ["-rd1", "-c", "IOPlatformExpertDevice"]).output;
  const found = [
    [ask("id", ["-un"]).output.trim(), "USER"],
    [ask("id", ["-F"]).output.trim(), "FULL-NAME"],
    [ask("hostname", []).output.trim(), "HOST"],
    [ask("scutil", ["--get", "ComputerName"]).output.trim(), "COMPUTER"],
    [/"IOPlatformSerialNumber"\s*=\s*"([^"]+)"/.exec(platform)?.[1] ?? "", "SERIAL"],
    [/"IOPlatformUUID"\s*=\s*"([^"]+)"/.exec(platform)?.[1] ?? "", "HARDWARE-UUID"],
  ];
  /** @type {Map<string, string>} */
  const words = new Map();
  // Shorter words, and the name of the superuser, stand for other things too.
  for (const [word = "", stand = ""] of found) {
    if (word.length >= 3 && word !== "root" && !word.includes("\n")) words.set(word, stand);
  }
  return words;
}
