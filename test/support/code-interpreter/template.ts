/** Template code-interpreter-v1 on the shared daemon, made once for all test files that use it. */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect } from "vitest";
import { sharedDaemon, skipReason } from "../clients/sdk.ts";
import { testedEngine } from "../daemon/engine-processes.ts";
import { cacheDir } from "../daemon/real-daemon.ts";
import { post } from "../daemon/requests.ts";
import type { SharedDaemon } from "../daemon/shared-daemon.ts";

/** The variant that is tested. An emulated guest takes too long for every run of all tests. */
export const variant = process.env.FIRKIN_TEST_CODE_INTERPRETER ?? (testedEngine === "gvisor" ? "lean" : undefined);
/** Why the tests that need the template are skipped, or false. */
export const notRun = skipReason || (!variant && "npm run test:code-interpreter runs it");

/** What the examples of the code interpreter print, in every language. */
export const exampleOutput =
  /^the table's data: .*180[\s\S]*drawn\nthe figure: \d{4,} .* a bar chart .Units sold.\nthe best month: Feb\nan error: KeyError 'price'\n$/;

const command = fileURLToPath(new URL("../../../scripts/cli/firkin.mjs", import.meta.url));

/**
 * Makes the template as a user does: the first create is refused and begins the making, which `firkin template add`
 * follows to its end.
 */
export async function makeTemplate(daemon: SharedDaemon = sharedDaemon()): Promise<void> {
  const first = await post(daemon, "/v2/sandboxes", { templateID: "code-interpreter-v1" });
  if (first.status === 201) {
    // Another file of tests has made it.
    const { sandboxID } = (await first.json()) as { sandboxID: string };
    await fetch(`${daemon.url}/sandboxes/${sandboxID}`, {
      method: "DELETE",
      headers: { "x-api-key": daemon.apiKey },
    });
    return;
  }
  expect([first.status, first.headers.get("retry-after")]).toEqual([503, "10"]);
  expect(await first.json()).toMatchObject({ message: expect.stringContaining("npx firkin template add") });
  const folders = ["--state-dir", daemon.stateDir, "--cache-dir", cacheDir()];
  // Without a flag it is the full one.
  const flags = variant === "full" ? [] : ["--lean"];
  const args = [command, "template", "add", "code-interpreter", ...flags, ...folders];
  const { stdout } = await promisify(execFile)(process.execPath, args);
  expect(stdout).toContain("code-interpreter-v1 is ready");
}
