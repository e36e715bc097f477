/** `firkin templates add NAME`: makes what a ready-made template is made from, and follows its making in the daemon. */
import { scopes, setUpOrExit } from "../setup/plan.mjs";
import { runDist } from "../setup/run-dist.mjs";

/** The templates that can be added: name → the scope of the set-up that makes their disk. */
const addable = /** @type {const} */ ({ "code-interpreter": scopes["code-interpreter"] });

/** @param {readonly string[]} args */
export async function addTemplate(args) {
  const [verb, name = "", ...options] = args;
  const scope = Object.entries(addable).find(([each]) => each === name)?.[1];
  const isDiskOnly = options.length === 1 && options[0] === "--disk-only";
  if (verb !== "add" || scope === undefined || (options.length > 0 && !isDiskOnly)) {
    process.stderr.write(`firkin: usage: npx firkin templates add ${Object.keys(addable).join("|")}\n`);
    process.exitCode = 2;
    return;
  }
  // The daemon asks for the disk alone, and makes the template by itself.
  const { steps } = scope;
  await setUpOrExit({ scope: isDiskOnly ? { steps: steps.slice(-1) } : scope });
  if (!isDiskOnly) await runDist("src/main.js", [`follow-${name}`]);
}
