/** What only a person at the Mac can see. The answers are written into the report. */
import { createInterface } from "node:readline/promises";

/** @type {readonly (readonly [string, string])[]} What to do, and what is expected. */
export const byHand = [
  [
    "lock the screen and pause a sandbox, then connect to it",
    "204, `GET /capacity` says pausedInMemory 1; it goes on where it was",
  ],
  ["lock the screen, pause a sandbox, unlock", "within seconds pausedInMemory is 0, and the sandbox can be resumed"],
  ["lock the screen and create a sandbox", "with a warm machine at once; without one it is booted"],
  [
    "lock the screen and start the daemon for the first time",
    "it starts, says that memory cannot be saved, and boots sandboxes",
  ],
  ["put the Mac to sleep for a minute with a sandbox running", "the guest's clock is right after it wakes"],
  ["start the daemon over SSH while its user is at the unlocked screen", "sandboxes are saved and restored"],
  ["start the daemon over SSH while nobody is at the screen", "doctor and the log say so, and sandboxes are booted"],
  ["update macOS, then start the daemon", "the template is made anew"],
];

/**
 * Asks each item, first whether it was done. An empty answer means that it was not.
 * @param {(question: string) => Promise<string>} ask
 * @returns {Promise<string>} as Markdown
 */
export async function askByHand(ask) {
  const lines = ["# Done by hand", ""];
  for (const [what, expected] of byHand) {
    const answer = (await ask(`${what}\n  expected: ${expected}\n  what did you see? (Enter: not done) `)).trim();
    lines.push(`* ${what}: ${answer === "" ? "not done" : answer}`);
  }
  return `${lines.join("\n")}\n`;
}

/** The list for a report that asks nobody. */
export function unaskedByHand() {
  const items = byHand.map(([what, expected]) => `* ${what}: not asked. Expected: ${expected}`);
  return `${["# Done by hand", "", ...items].join("\n")}\n`;
}

/** Asks at the terminal. @param {NodeJS.ReadableStream} input @param {NodeJS.WritableStream} output */
export async function askAtTerminal(input, output) {
  const lines = createInterface({ input, output });
  try {
    return await askByHand((question) => lines.question(question));
  } finally {
    lines.close();
  }
}
