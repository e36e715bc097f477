/** `firkin template add code-interpreter`: makes what the template is made from, and follows its making in the daemon. */
import { scopes, setUpOrExit } from "../setup/plan.mjs";
import { runDist } from "../setup/run-dist.mjs";

/** The templates that have a disk of their own: name → the scope of the set-up that makes it. */
const withOwnDisk = /** @type {const} */ ({ "code-interpreter": scopes["code-interpreter"] });

/**
 * Whether `firkin template ARGUMENT…` adds a template that has a disk of its own.
 * @param {readonly string[]} args
 */
export function addsDisk([verb, name = ""]) {
  return verb === "add" && Object.hasOwn(withOwnDisk, name);
}

/** @param {readonly string[]} args for which {@link addsDisk} holds */
export async function addTemplate([, name = "", ...options]) {
  const scope = withOwnDisk[/** @type {keyof typeof withOwnDisk} */ (name)];
  const isDiskOnly = options.length === 1 && options[0] === "--disk-only";
  if (options.length > 0 && !isDiskOnly) {
    process.stderr.write(`firkin: usage: npx firkin template add ${name}\n`);
    process.exitCode = 2;
    return;
  }
  // The daemon asks for the disk alone, and makes the template by itself.
  const { steps } = scope;
  await setUpOrExit({ scope: isDiskOnly ? { steps: steps.slice(-1) } : scope });
  if (!isDiskOnly) await runDist("src/main.js", [`follow-${name}`]);
}
