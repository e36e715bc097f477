/** The console's main file: it reads the daemon every two seconds, and runs the actions of buttons and keys. */
import { createSandbox, extend, fork, kill, pause, resume } from "./actions.js";
import { ApiError, api, hasKey, listSandboxes, setKey, takeKeyFromAddress } from "./api.js";
import { keepPanels, openCellOfSelected, openTerminal, showDetail } from "./detail.js";
import { ask, byId, setText, within } from "./dom.js";
import { SandboxList } from "./list.js";
import { showCapacity, showQuarantine } from "./overview.js";

const lookMs = 2_000;
const maxListed = 500;
/** The largest number of sandboxes that the daemon gives metrics of at once. */
const maxMetrics = 100;

const list = new SandboxList();
const status = byId("status", HTMLElement);
const connection = byId("connection", HTMLElement);
/** False after a daemon without the route has answered 404. */
let hasQuarantine = true;
/** The look under way, of which there is one at a time. */
/** @type {Promise<void> | undefined} */
let looking;

/** Reads everything once. */
function look() {
  looking ??= lookAtAll().finally(() => {
    looking = undefined;
  });
  return looking;
}

/** Reads everything after an action, because the look under way may have read the state before it. */
async function lookAgain() {
  await looking;
  await look();
}

async function lookAtAll() {
  try {
    const [{ sandboxes, more }, capacity, quarantine] = await Promise.all([
      listSandboxes(maxListed),
      api("/capacity"),
      lookAtQuarantine(),
    ]);
    const ids = sandboxes.slice(0, maxMetrics).map(({ sandboxID }) => sandboxID);
    const metrics = ids.length === 0 ? {} : (await api(`/sandboxes/metrics?sandbox_ids=${ids.join(",")}`)).sandboxes;
    list.show(sandboxes, metrics, more);
    keepPanels(new Set(sandboxes.map(({ sandboxID }) => sandboxID)));
    showCapacity(capacity);
    showQuarantine(quarantine);
    setText(connection, "");
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) await askForKey("The daemon does not know this key.");
    else setText(connection, error instanceof ApiError ? error.message : "The daemon does not answer. Trying again.");
  }
}

async function lookAtQuarantine() {
  if (!hasQuarantine) return [];
  try {
    return (await api("/quarantine")).entries;
  } catch (error) {
    if (!(error instanceof ApiError && error.status === 404)) throw error;
    hasQuarantine = false;
    return [];
  }
}

/** @param {string} problem */
async function askForKey(problem) {
  const dialog = byId("key-dialog", HTMLDialogElement);
  const field = within(dialog, "input", HTMLInputElement);
  setText(byId("key-problem", HTMLElement), problem);
  await ask(dialog);
  setKey(field.value);
  field.value = "";
}

/** The actions on the selected sandbox, with the texts during and after each. */
const actions = /** @type {const} */ ({
  pause: { doing: "Pausing", done: "Paused", run: pause },
  resume: { doing: "Resuming", done: "Resumed", run: resume },
  extend: { doing: "Extending", done: "15 minutes from now for", run: extend },
  fork: { doing: "Forking", done: "Forked", run: fork },
  kill: { doing: "Killing", done: "Killed", run: kill },
});

/** @param {string} name */
async function act(name) {
  const sandbox = list.selected;
  if (!sandbox) return;
  if (name === "terminal") return attempt("", openTerminal);
  if (name === "cell") return attempt("", openCellOfSelected);
  const action = actions[/** @type {keyof typeof actions} */ (name)];
  const { sandboxID } = sandbox;
  await attempt(name === "kill" ? "" : `${action.doing} ${sandboxID} …`, async () => {
    const result = await action.run(sandboxID);
    if (result === false) return;
    await lookAgain();
    if (typeof result === "string") list.select(result);
    say(`${action.done} ${sandboxID}`);
  });
}

async function create() {
  await attempt("", async () => {
    const id = await createSandbox();
    if (id === undefined) return;
    await lookAgain();
    list.select(id);
    list.focus();
    say(`Created ${id}`);
  });
}

/**
 * @param {string} doing
 * @param {() => Promise<void>} work
 */
async function attempt(doing, work) {
  if (doing) say(doing);
  try {
    await work();
  } catch (error) {
    say(error instanceof Error ? error.message : String(error), true);
  }
}

/**
 * @param {string} text
 * @param {boolean} failed
 */
function say(text, failed = false) {
  status.classList.toggle("failed", failed);
  setText(status, text);
}

/** @type {Readonly<Record<string, () => unknown>>} */
const keys = {
  ArrowUp: () => list.move(-1),
  ArrowDown: () => list.move(1),
  n: create,
  t: () => act("terminal"),
  c: () => act("cell"),
  p: () => act(list.selected?.state === "paused" ? "resume" : "pause"),
  f: () => act("fork"),
  e: () => act("extend"),
  k: () => act("kill"),
  "?": () => ask(byId("keys-dialog", HTMLDialogElement)),
};

document.addEventListener(
  "keydown",
  (event) => {
    const target = /** @type {Element} */ (event.target);
    if (target.closest(".shell .screen")) {
      if (event.key !== "Escape" || !event.shiftKey) return;
      event.stopPropagation();
      event.preventDefault();
      return list.focus();
    }
    const isTyping = target.closest("input, select, textarea, dialog[open]");
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!key) return;
    event.preventDefault();
    key();
  },
  // Capture comes before the terminal, which takes every key.
  { capture: true },
);
byId("new", HTMLButtonElement).addEventListener("click", create);
byId("keys", HTMLButtonElement).addEventListener("click", () => ask(byId("keys-dialog", HTMLDialogElement)));
byId("detail-actions", HTMLElement).addEventListener("click", ({ target }) => {
  const button = target instanceof Element ? target.closest("button") : null;
  if (button?.dataset.action) void act(button.dataset.action);
});
list.addEventListener("change", () => showDetail(list.selected));
document.addEventListener("visibilitychange", () => void (document.hidden || look()));

takeKeyFromAddress();
if (!hasKey()) await askForKey("");
for (;;) {
  if (!document.hidden) await look();
  await new Promise((resolve) => setTimeout(resolve, lookMs));
}
