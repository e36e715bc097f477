/**
 * The template `code-interpreter-v1`: base's disk with the service of `src/code-interpreter/`, which E2B's code
 * interpreter SDKs talk to, and Python packages. It is made when it is wanted: its disk by the set-up, in a process of
 * its own, then the template like `base`.
 */
import { DomainError, isDomainError, messageOf } from "../../errors.ts";
import type { GuestAgent } from "../../guest/agent.ts";
import { findCurrentBuild } from "../../ledger/templates.ts";
import { findCodeInterpreterDisk } from "../assets/code-interpreter-disk.ts";
import type { GuestAssets } from "../assets/guest-assets.ts";
import { runCommand, warmUp } from "../machine/warm-up.ts";
import { ensureMadeTemplate, type MadeTemplate, type TemplateDependencies } from "./made-template.ts";

export const codeInterpreterAlias = "code-interpreter-v1";
/** How the set-up and the command line name it. */
const addCommand = "npx firkin template add code-interpreter";
const retryAfterSeconds = 10;
/** How often a template that is there is compared with what it would be made from. */
const checkEveryMs = 60_000;

/** The work of making it, up to now. */
type Making =
  | { readonly kind: "not_wanted" }
  | { readonly kind: "wanted" }
  | { readonly kind: "under_way"; readonly step: string; readonly sinceMs: number }
  | { readonly kind: "failed"; readonly why: string };

export interface CodeInterpreterDependencies extends TemplateDependencies {
  readonly assets: GuestAssets;
  readonly cacheDir: string;
  /** `background`: it is made although nobody has asked for it. `off`: creates do not begin the making. */
  readonly wanted: "background" | "on-demand" | "off";
  /**
   * Makes the disk with the set-up.
   * @param onLine called with what the set-up shows
   * @throws Error with the end of what it showed
   */
  readonly makeDisk: (onLine: (line: string) => void, signal: AbortSignal) => Promise<void>;
}

export class CodeInterpreterTemplate {
  readonly #deps: CodeInterpreterDependencies;
  #making: Making;
  /** Monotonic time before which a template that is there is not compared with its ingredients again. */
  #nextCheckMs = 0;

  constructor(deps: CodeInterpreterDependencies) {
    this.#deps = deps;
    this.#making = { kind: deps.wanted === "background" ? "wanted" : "not_wanted" };
  }

  /**
   * Begins the making if `name` is this template and it does not exist yet.
   * @throws DomainError `not_ready` saying how far it is and which command shows more; `machine_failed`, once, with the
   *   reason why it could not be made; `not_found` when the settings turn it off; `unsupported` on vz
   */
  refuseUnmade(name: string): void {
    const { ledger, wanted, driver } = this.#deps;
    if (name !== codeInterpreterAlias || findCurrentBuild(ledger, name)) return;
    if (driver.info.engine === "vz") {
      throw new DomainError("unsupported", `template '${name}' cannot be made for the vz engine yet`, { name });
    }
    if (wanted === "off") {
      const message = `template '${name}' is not made, because of --code-interpreter off. To make it: ${addCommand}`;
      throw new DomainError("not_found", message, { name });
    }
    const before = this.#making;
    if (before.kind === "failed") {
      this.#making = { kind: "not_wanted" };
      const message = `template '${name}' cannot be made: ${before.why.trim()}. The next create tries again.`;
      throw new DomainError("machine_failed", message, { name });
    }
    if (before.kind !== "under_way") this.#making = { kind: "wanted" };
    throw new DomainError(
      "not_ready",
      `template '${name}' is not ready: ${this.#describe(before)}. To see how far it is: ${addCommand}`,
      { name, retryAfterSeconds },
    );
  }

  /**
   * Makes the template when it is wanted, and makes it anew when what it is made from has changed. A failure is kept for
   * the next who asks.
   */
  async maintain(signal: AbortSignal): Promise<void> {
    const { clock, ledger, log, assets } = this.#deps;
    const isWanted = this.#making.kind === "wanted";
    if (!isWanted && (clock.monotonicMs() < this.#nextCheckMs || !findCurrentBuild(ledger, codeInterpreterAlias)))
      return;
    try {
      const disk = await this.#disk(isWanted, signal);
      if (disk === undefined) return;
      const progress = (step: string) => this.#note(step);
      await ensureMadeTemplate(this.#deps, codeInterpreter, { ...assets, baseDisk: disk }, progress, signal);
      this.#nextCheckMs = clock.monotonicMs() + checkEveryMs;
      this.#making = { kind: "not_wanted" };
    } catch (error) {
      signal.throwIfAborted();
      // Room may come by itself, so this is tried again.
      if (isDomainError(error, "capacity_exhausted") || isDomainError(error, "disk_pressure")) {
        this.#making = { kind: "wanted" };
        log.warn({ reason: error.message }, "the template code-interpreter-v1 has to wait");
        return;
      }
      this.#making = { kind: "failed", why: messageOf(error) };
      throw error;
    }
  }

  /** The disk. If the template is wanted, the set-up makes it, or finds that it is up to date. */
  async #disk(isWanted: boolean, signal: AbortSignal): Promise<string | undefined> {
    const { cacheDir, makeDisk, admitDisk } = this.#deps;
    if (!isWanted) return findCodeInterpreterDisk(cacheDir);
    await admitDisk("make the disk of template code-interpreter-v1");
    this.#note("make its disk");
    await makeDisk((line) => this.#note(line), signal);
    return findCodeInterpreterDisk(cacheDir);
  }

  #note(step: string): void {
    const { clock, log } = this.#deps;
    const sinceMs = this.#making.kind === "under_way" ? this.#making.sinceMs : clock.monotonicMs();
    this.#making = { kind: "under_way", step: step.trim(), sinceMs };
    log.info({ step: step.trim() }, "the template code-interpreter-v1 is being made");
  }

  #describe(making: Exclude<Making, { kind: "failed" }>): string {
    switch (making.kind) {
      case "under_way": {
        const seconds = Math.round((this.#deps.clock.monotonicMs() - making.sinceMs) / 1000);
        return `it is being made, for ${seconds} s now (${making.step})`;
      }
      case "wanted":
      case "not_wanted":
        return "its making begins now and takes some minutes";
    }
  }
}

const codeInterpreter: MadeTemplate = {
  alias: codeInterpreterAlias,
  title: "template code-interpreter-v1",
  recipeVersion: 2,
  shape: { vcpuCount: 2, memoryMiB: 2048, diskMiB: 8192 },
  async warmUp(agent: GuestAgent, isTrustChanged: boolean) {
    // The service began with the machine; programs take what they trust from the environment that they start with.
    if (isTrustChanged) await runCommand(agent, end(""));
    await warmUp(agent);
    await runCommand(agent, untilReady);
    // The next front has the fork server load packages ahead, and then begins with new kernels.
    await runCommand(agent, `set -e; sudo touch ${loadAhead}; ${end("service.py")}`);
    await runCommand(agent, untilReady);
    for (const [language, code] of cells) await runCommand(agent, runCell(language, code));
    for (const [language, program, code] of fullCells) {
      await runCommand(agent, `! command -v ${program} >/dev/null || (${runCell(language, code)})`);
    }
    // With the file that is removed here, the service is ready when every spare kernel is.
    await runCommand(agent, untilReady);
    await runCommand(agent, `sudo rm ${loadAhead}`);
  },
};

const service = "http://localhost:49999";
const untilReady = `timeout 600 sh -c 'until curl -sf -o /tmp/health ${service}/health; do sleep 0.5; done'; rm /tmp/health`;

const loadAhead = "/run/firkin/code-interpreter/load-ahead";
/** Ends a program of the service. The brackets keep the pattern from finding the command itself. */
const end = (program: string) => `sudo pkill -f '[/]opt/firkin/code-interpreter/${program}'; sleep 0.2`;

/** One cell of each kind, so that the files that it reads are in memory. */
const cells: readonly (readonly [language: string, code: string])[] = [
  ["python", "print(1)\n1 / 0"],
  ["python", "!true\nimport pandas as pd\npd.DataFrame({'a': [1, 2]})"],
  ["python", "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"],
  ["python", "from PIL import Image\nImage.new('RGB', (2, 2))"],
  ["javascript", "console.log(1)\nawait 1"],
  ["typescript", "enum A { B }\nconst a: number = 1\na"],
  ["bash", "echo 1"],
];

/** The same for what the full variant alone has: language, its program, code. */
const fullCells: readonly (readonly [language: string, program: string, code: string])[] = [
  ["r", "R", "plot(1:3)\ndata.frame(a = 1)"],
  ["java", "java", 'System.out.println("a" + 1);'],
];

/** Runs a cell in a context of its own, which is gone afterwards. */
function runCell(language: string, code: string): string {
  const json = (value: object) => `'${JSON.stringify(value).replaceAll("'", "'\\''")}'`;
  const post = `curl -sf -H 'content-type: application/json'`;
  return [
    "set -e -o pipefail",
    `id=$(${post} -d ${json({ language })} ${service}/contexts | jq -r .id)`,
    `jq --arg id "$id" '. + {context_id: $id}' <<<${json({ code })} | ${post} -d @- ${service}/execute | tail -1 | grep -q end_of`,
    `curl -sf -X DELETE ${service}/contexts/$id >/dev/null`,
  ].join("\n");
}
