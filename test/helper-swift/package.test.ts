/** The Swift package builds and passes its own tests, without a warning, in the Debian root that set-up made. */
import { spawn } from "node:child_process";
import { expect, test } from "vitest";
import { storageRoots } from "../../scripts/setup/roots.mjs";
import { currentSwiftRoot, inSwiftRoot } from "../../scripts/setup/swift.mjs";

const roots = storageRoots();
const swift = currentSwiftRoot(roots);
const missing = swift ? (swift.root ? undefined : swift.reason) : "Swift was not set up: run npm test once";
/** A first build on a busy host; later ones take seconds. */
const buildTimeoutMs = 600_000;

test.skipIf(missing)(
  missing ? `swift test (skipped: ${missing})` : "swift test passes and nothing warns",
  async () => {
    const script = "exec swift test -j 2 --package-path /repo/helper-swift --scratch-path /build/test 2>&1";
    const [command, args] = inSwiftRoot(roots, swift?.root ?? "", script);
    const child = spawn("nice", [command, ...args], { stdio: ["ignore", "pipe", "inherit"] });
    const chunks: Buffer[] = [];
    child.stdout.on("data", (chunk: Buffer) => chunks.push(chunk));
    const status = await new Promise((resolve) => child.once("close", resolve));
    const output = Buffer.concat(chunks).toString();
    expect(output.split("\n").filter((line) => /warning:|error:|✘/.test(line))).toEqual([]);
    expect(status, output.slice(-4000)).toBe(0);
    expect(Number(/Test run with (\d+) tests passed/.exec(output)?.[1])).toBeGreaterThan(10);
  },
  buildTimeoutMs,
);
