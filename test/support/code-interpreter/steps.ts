/**
 * What takes more than one cell: each step with what every client of the code interpreter must see. The JavaScript of
 * the steps is in javascript-steps.ts, their Python in test/sdk/fixtures/code_interpreter.py. Kinds of errors are their
 * classes without `Error` and `Exception`.
 */
export const expectedSteps = {
  "state and count": ["SyntaxError", 1, "2", 3],
  connect: "5",
  callbacks: [
    [
      ["hello\n", false],
      ["oops\n", true],
    ],
    "1",
    "NameError",
    [1, 1, 1, 1],
    true,
  ],
  "contexts: made": ["python", "/home/user", "javascript", "/root"],
  "contexts: listed": [["python", "javascript"], true],
  "contexts: folder": "/root",
  "contexts: independent": "NameError",
  "contexts: restarted": ["NameError", 1],
  "contexts: removed": "NotFound",
  "contexts: with a language": "InvalidArgument",
  "contexts: unknown language": ["Sandbox", "500 Internal Server Error"],
  "contexts: unknown folder": "Sandbox",
  "two at once": [true, ["waited\n"], "7"],
  "leaving a queue": ["ended", "Timeout", "False"],
  interrupt: ["Timeout", "Execution timed out", "2"],
  "a silence": "over",
  "a large output": 20_000_000,
  "a kernel's death": [["ContextRestarting", "Context was restarted"], ["/home/user sandbox\n"], 1],
  serialised: [[{ json: [1], text: "[1]" }], { stdout: ["out\n"], stderr: [] }, null],
  "pause and resume": ["1", true],
  fork: ["2", 2],
  "with a traffic token": ["1", "NameError", ["python", "javascript"]],
  "derived template": "built",
  killed: ["Timeout", true],
} as const;

export type Step = keyof typeof expectedSteps;
