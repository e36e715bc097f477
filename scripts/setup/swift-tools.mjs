/** Apple's Swift, as the command line tools or Xcode bring it: whether it is new enough, and how its tests are run. */
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { join } from "node:path";
import { atLeast } from "./platform.mjs";

/**
 * @typedef {(command: string, args: readonly string[]) => { status: number | null, output: string }} Ask Runs a
 *   program of the system. Its output is stdout and stderr together.
 * @typedef {{ detail: string, remedy?: string }} SwiftTools With a remedy when the helper cannot be built with them.
 */

/** The package says `swift-tools-version: 6.0`. The tools of macOS 14.5 and newer have it. */
const neededSwift = [6, 0];
const updateRemedy =
  "update Apple's command line tools: softwareupdate --list, then softwareupdate --install with the label of the " +
  "newest Command Line Tools (macOS 14.5 or newer)";
const toolsRemedy = "install Apple's command line tools: xcode-select --install";

/** @type {Ask} */
export const askSystem = (command, args) => {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: "utf8" });
  return { status, output: `${stdout ?? ""}${stderr ?? ""}${error ? error.message : ""}` };
};

/**
 * Asks the Swift that would be used. `/usr/bin/swift` alone says nothing, because it is there without the tools.
 * @param {Ask} [ask]
 * @returns {SwiftTools}
 */
export function askSwift(ask = askSystem) {
  const folder = ask("xcode-select", ["--print-path"]);
  if (folder.status !== 0) return { detail: "Apple's command line tools are missing", remedy: toolsRemedy };
  const { status, output } = ask("xcrun", ["swift", "--version"]);
  const version = /Swift version (\d+(?:\.\d+)*)/.exec(output)?.[1];
  if (status !== 0 || version === undefined) {
    const why = output.trim().split("\n").slice(0, 3).join(" ");
    const remedy = /licen[cs]e/i.test(output) ? "accept Xcode's licence: sudo xcodebuild -license accept" : toolsRemedy;
    return { detail: `Swift does not start: ${why}`, remedy };
  }
  const detail = `${version} in ${folder.output.trim()}`;
  if (atLeast(version, neededSwift)) return { detail };
  return { detail: `${detail}; the helper needs ${neededSwift.join(".")} or newer`, remedy: updateRemedy };
}

/**
 * The arguments of `swift test` for the package. The command line tools have the library of tests in a folder that
 * their own compiler does not look into.
 * @param {string} packageFolder
 * @param {string} developerFolder As `xcode-select --print-path` prints it.
 * @param {(path: string) => boolean} [exists]
 */
export function swiftTestArguments(packageFolder, developerFolder, exists = fs.existsSync) {
  const base = ["test", "--package-path", packageFolder];
  if (!/\/CommandLineTools\/?$/.test(developerFolder)) return base;
  const frameworks = join(developerFolder, "Library/Developer/Frameworks");
  const libraries = join(developerFolder, "Library/Developer/usr/lib");
  const plugins = join(developerFolder, "usr/lib/swift/host/plugins/testing");
  const compiler = ["-F", frameworks, ...(exists(plugins) ? ["-plugin-path", plugins] : [])];
  const linker = ["-rpath", frameworks, "-rpath", libraries];
  return [
    ...base,
    ...compiler.flatMap((word) => ["-Xswiftc", word]),
    ...["-F", frameworks].flatMap((word) => ["-Xlinker", word]),
    ...linker.flatMap((word) => ["-Xlinker", word]),
  ];
}
