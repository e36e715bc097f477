/** The help of the command `firkin`, as it is printed before anything is installed or compiled. */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { commandHelp, commands, help } from "../../src/help.mjs";

const firkin = fileURLToPath(new URL("../../scripts/cli/firkin.mjs", import.meta.url));
const run = (...args: string[]) => spawnSync(process.execPath, [firkin, ...args], { encoding: "utf8" });

test("help lists every command, and so does an unknown command", () => {
  for (const { usage } of commands) expect(help).toContain(`npx firkin ${usage}`);
  expect(run("help")).toMatchObject({ status: 0, stdout: help });
  expect(run()).toMatchObject({ status: 0, stdout: help });
  const { status, stderr } = run("nothing");
  expect([status, stderr]).toEqual([2, `firkin: there is no command "nothing"\n\n${help}`]);
});

test.each(["setup", "doctor"])("%s has a help of its own and does nothing then", (name) => {
  const command = commands.find((each) => each.name === name);
  const text = command && commandHelp(command, "");
  expect(run(name, "--help")).toMatchObject({ status: 0, stdout: text, stderr: "" });
  expect(run("help", name)).toMatchObject({ status: 0, stdout: text, stderr: "" });
});

test("only a command that takes settings lists them", () => {
  const texts = commands.map((command) => [command.name, commandHelp(command, "--port").includes("--port")]);
  expect(texts.filter(([, lists]) => lists).map(([name]) => name)).toEqual(["serve", "env", "tls"]);
});

test("a template with a disk of its own is added whole or lean, and without other options", () => {
  const { status, stderr } = run("template", "add", "code-interpreter", "--all");
  expect([status, stderr]).toEqual([2, "firkin: usage: npx firkin template add code-interpreter [--lean]\n"]);
});
