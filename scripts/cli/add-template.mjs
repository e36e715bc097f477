/** `firkin template add code-interpreter`: makes what the template is made from, and follows its making in the daemon. */
import { chosenVariant } from "../setup/code-interpreter.mjs";
import { scopes, setUpOrExit } from "../setup/plan.mjs";
import { storageRoots } from "../setup/roots.mjs";
import { runDist } from "../setup/run-dist.mjs";

const template = "code-interpreter";

/**
 * Whether `firkin template ARGUMENT…` adds a template that has a disk of its own.
 * @param {readonly string[]} args
 */
export function addsDisk([verb, name]) {
  return verb === "add" && name === template;
}

/** @param {readonly string[]} args for which {@link addsDisk} holds */
export async function addTemplate([, , ...options]) {
  // The daemon asks for the disk alone, and makes the template by itself.
  const isDiskOnly = options.includes("--disk-only");
  const isLean = options.includes("--lean");
  if (options.some((option) => option !== "--disk-only" && option !== "--lean")) {
    process.stderr.write(`firkin: usage: npx firkin template add ${template} [--lean]\n`);
    process.exitCode = 2;
    return;
  }
  const before = chosenVariant(storageRoots());
  // A daemon makes the one that this host has, and the small one where nobody has chosen.
  const variant = isLean ? "lean" : isDiskOnly ? (before ?? "lean") : "full";
  const scope = scopes[`code-interpreter-${variant}`];
  await setUpOrExit({ scope: isDiskOnly ? { steps: scope.steps.slice(-1) } : scope });
  if (isDiskOnly) return;
  if (before !== undefined && before !== variant) {
    process.stdout.write(
      `A daemon that serves makes the ${variant} template within minutes; the ${before} one serves till then.\n`,
    );
    return;
  }
  await runDist("src/main.js", [`follow-${template}`]);
}
