/** The command line's look at a template that the daemon makes: it waits until the template is there. */
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import { readAddress } from "./client-environment.ts";
import { DomainError } from "./errors.ts";
import { readOrCreateApiKey } from "./team/machine-key.ts";
import { codeInterpreterAlias } from "./template/base/code-interpreter.ts";

const pollMs = 1_000;
const answerSchema = z.object({ message: z.string() });

/**
 * Waits until the daemon of this state folder has template code-interpreter-v1, and shows how far it is.
 * @throws DomainError `failed_precondition` with what the daemon says when it does not make the template
 */
export async function followTemplate(stateDir: string): Promise<void> {
  const address = await readAddress(stateDir);
  const apiKey = await readOrCreateApiKey(stateDir);
  const ask = (path: string, init: RequestInit = {}) =>
    fetch(`${address?.url}${path}`, { ...init, headers: { "x-api-key": apiKey, "content-type": "application/json" } });
  const isServing = address !== undefined && (await ask("/health").catch(() => undefined)) !== undefined;
  if (!isServing) {
    process.stdout.write(
      `The disk is ready. No daemon serves, so the first create makes template ${codeInterpreterAlias} from it.\n`,
    );
    return;
  }
  let shown = "";
  for (;;) {
    // No build has such a tag, so this never makes a sandbox: it is not ready, and says how far it is, or not found.
    const body = JSON.stringify({ templateID: `${codeInterpreterAlias}:none`, timeout: 15 });
    const answer = await ask("/v2/sandboxes", { method: "POST", body });
    const { message } = answerSchema.parse(await answer.json());
    if (answer.status === 404) break;
    if (answer.status !== 503) throw new DomainError("failed_precondition", message);
    const step = stepIn(message);
    if (step !== shown) process.stderr.write(`  … ${step}\n`);
    shown = step;
    await sleep(pollMs);
  }
  process.stdout.write(`Template ${codeInterpreterAlias} is ready.\n`);
}

/** What is under way, without the time that it takes. */
function stepIn(message: string): string {
  return /for \d+ s now \((.*)\)\. /s.exec(message)?.[1] ?? "the daemon begins";
}
