/** Apple's Swift as the command line tools and Xcode answer for it. */
import { expect, test } from "vitest";
import { askSwift, swiftTestArguments } from "../../scripts/setup/swift-tools.mjs";
import { missingTestLibrary } from "../../scripts/verify/mac/steps.mjs";

const tools = "/Library/Developer/CommandLineTools";
const xcode = "/Applications/Xcode.app/Contents/Developer";
const answers = (folder: string | undefined, swift: { status: number; output: string }) =>
  askSwift((command) =>
    command === "xcode-select" ? { status: folder ? 0 : 2, output: `${folder ?? "xcode-select: error"}\n` } : swift,
  );
const version = (text: string) => ({
  status: 0,
  output: `swift-driver version: 1.115 Apple Swift version ${text} (x)\n`,
});

test("Swift 6 and newer can build the helper; everything else has a remedy", () => {
  expect(answers(tools, version("6.0.3"))).toEqual({ detail: `6.0.3 in ${tools}` });
  expect(answers(xcode, version("6.2"))).toEqual({ detail: `6.2 in ${xcode}` });
  expect(answers(tools, version("5.10")).remedy).toMatch(/softwareupdate/);
  expect(answers(undefined, version("6.0")).remedy).toMatch(/xcode-select --install/);
  const licence = "You have not agreed to the Xcode license agreements.";
  expect(answers(xcode, { status: 69, output: licence }).remedy).toMatch(/xcodebuild -license/);
  expect(answers(tools, { status: 1, output: "xcrun: error: invalid active developer path" }).remedy).toMatch(
    /--install/,
  );
});

test("with the command line tools alone, `swift test` is told where the library of tests is", () => {
  expect(swiftTestArguments("/p", xcode, () => true)).toEqual(["test", "--package-path", "/p"]);
  const words = swiftTestArguments("/p", tools, () => false).join(" ");
  expect(words).toContain(`-Xswiftc -F -Xswiftc ${tools}/Library/Developer/Frameworks`);
  expect(words).toContain(`-Xlinker -rpath -Xlinker ${tools}/Library/Developer/usr/lib`);
  expect(words).not.toContain("-plugin-path");
  const withPlugins = swiftTestArguments("/p", `${tools}/`, () => true).join(" ");
  expect(withPlugins).toContain("-Xswiftc -plugin-path -Xswiftc");
});

test("a compiler without the library of tests is no failure of the package", () => {
  expect(missingTestLibrary("error: no such module 'Testing'")).toMatch(/no library/);
  expect(missingTestLibrary("error: plugin for module 'TestingMacros' not found")).toMatch(/no library/);
  expect(missingTestLibrary("✘ Test aStep() failed")).toBeUndefined();
});
