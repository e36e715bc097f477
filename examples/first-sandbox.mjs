/**
 * The first sandbox: creates one, runs commands, moves files, and prints the time that each step took.
 *
 *   npm run example
 *
 * The sandbox part does not know firkin: the SDK reads E2B_API_KEY, E2B_API_URL and E2B_SANDBOX_URL. This program alone
 * asks `npx firkin env` for these variables when they are not set.
 */
import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { setUpOrExit } from "../scripts/setup/plan.mjs";

// The SDK is a package for development, which `npm start` does not install.
await setUpOrExit({ scope: "development" });

if (!process.env.E2B_API_URL) {
  const lines = execFileSync(
    process.execPath,
    [fileURLToPath(new URL("../scripts/cli/firkin.mjs", import.meta.url)), "env"],
    { encoding: "utf8" },
  );
  for (const [, name = "", value] of lines.matchAll(/(E2B_\w+)=(\S+)/g)) process.env[name] ??= value;
}
const { Sandbox } = await import("e2b");

/**
 * Runs one step and prints how long it took.
 * @template T
 * @param {string} name
 * @param {() => Promise<T>} work
 * @returns {Promise<T>}
 */
async function step(name, work) {
  const startedMs = performance.now();
  const result = await work();
  console.log(`${(performance.now() - startedMs).toFixed(0).padStart(6)} ms  ${name}`);
  return result;
}

const print = (/** @type {string} */ label) => (/** @type {string} */ text) => {
  process.stdout.write(text.replace(/^/gm, `           ${label} `).replace(/ {11}\w+ $/, ""));
};

const sandbox = await step("create a sandbox", () =>
  Sandbox.create({ timeoutMs: 60_000, metadata: { job: "example" }, envs: { A: "1" } }),
);
try {
  console.log(`           ${sandbox.sandboxId}`);
  await step("run a command", () =>
    sandbox.commands.run('echo "hi from $(hostname), A=$A"; echo err >&2', {
      onStdout: print("stdout"),
      onStderr: print("stderr"),
    }),
  );
  await step("run another", () => sandbox.commands.run("uname -a", { onStdout: print("stdout") }));
  await step("python", () => sandbox.commands.run("python3 -c 'print(6 * 7)'", { onStdout: print("stdout") }));
  await step("write a file", () => sandbox.files.write("/home/user/a.txt", "x"));
  const text = await step("read it", () => sandbox.files.read("a.txt"));
  console.log(`           ${JSON.stringify(text)}`);
  const entries = await step("list /", () => sandbox.files.list("/"));
  console.log(`           ${entries.map(({ name }) => name).join(" ")}`);
} finally {
  await step("kill", () => sandbox.kill());
}
