/** The detail view of the selected sandbox: facts, latency, terminal, cell. */
import { api } from "./api.js";
import { keepCells, openCell, showCell } from "./cell.js";
import { byId, element, printable, setText } from "./dom.js";
import { TerminalPanel } from "./terminal.js";
import { showLatency } from "./waterfall.js";
import { clockTime, memory } from "./words.js";

/** @typedef {import("../../../src/e2b/schemas.ts").ListedSandbox} Sandbox */

const root = byId("detail", HTMLElement);
const title = byId("detail-title", HTMLElement);
const facts = byId("detail-facts", HTMLElement);
const tags = byId("detail-metadata", HTMLUListElement);
const actions = byId("detail-actions", HTMLElement);
const terminals = byId("terminals", HTMLElement);
const cells = byId("cells", HTMLElement);
/** The time from a command until its latency samples are stored. */
const settleMs = 700;

/** One panel for each sandbox with an open terminal, shown with its sandbox. */
/** @type {Map<string, TerminalPanel>} */
const panels = new Map();
/** The sandbox and state that are shown. A change of either reads the latency anew. */
let shown = "";
/** @type {Sandbox | undefined} */
let current;

/** @param {Sandbox | undefined} sandbox */
export function showDetail(sandbox) {
  current = sandbox;
  root.hidden = sandbox === undefined;
  if (!sandbox) {
    shown = "";
    return;
  }
  setText(title, sandbox.sandboxID);
  setText(facts, factsOf(sandbox));
  showMetadata(sandbox.metadata);
  for (const button of actions.querySelectorAll("button")) {
    const { action = "" } = button.dataset;
    if (action === "pause") button.hidden = sandbox.state === "paused";
    if (action === "resume") button.hidden = sandbox.state === "running";
    if (["terminal", "cell", "fork", "extend"].includes(action)) button.disabled = sandbox.state === "paused";
  }
  for (const [id, panel] of panels) panel.root.hidden = id !== sandbox.sandboxID;
  panels.get(sandbox.sandboxID)?.fit();
  showCell(sandbox.sandboxID);
  const now = `${sandbox.sandboxID} ${sandbox.state}`;
  if (now !== shown) void refreshLatency();
  shown = now;
}

/** Disposes the panels of sandboxes that have ended. @param {ReadonlySet<string>} ids */
export function keepPanels(ids) {
  keepCells(ids);
  for (const [id, panel] of panels) {
    if (ids.has(id)) continue;
    panel.dispose();
    panels.delete(id);
  }
}

/** Opens the terminal of the selected sandbox, or focuses the open one. */
export async function openTerminal() {
  if (current?.state !== "running") return;
  const { sandboxID } = current;
  const known = panels.get(sandboxID);
  if (known) return known.focus();
  const onClose = () => {
    panels.delete(sandboxID);
    actions.querySelector("button")?.focus();
  };
  const panel = new TerminalPanel(sandboxID, onClose, () => setTimeout(refreshLatency, settleMs));
  panels.set(sandboxID, panel);
  terminals.append(panel.root);
  const opening = panel.open();
  panel.focus();
  await opening;
  setTimeout(refreshLatency, settleMs);
}

/** Opens the cell of the selected sandbox, or focuses the open one. */
export async function openCellOfSelected() {
  if (current?.state === "running") openCell(current.sandboxID, cells);
}

async function refreshLatency() {
  if (!current) return;
  const { sandboxID } = current;
  const { samples } = await api(`/sandboxes/${encodeURIComponent(sandboxID)}/latency`).catch(() => ({ samples: [] }));
  if (current?.sandboxID === sandboxID) showLatency(samples);
}

/** @param {Sandbox} sandbox */
function factsOf({ alias, templateID, state, startedAt, endAt, cpuCount, memoryMB, diskSizeMB }) {
  const until = state === "running" ? `ends ${clockTime(endAt)}` : `paused ${clockTime(endAt)}`;
  const shape = `${cpuCount} vCPU, ${memory(memoryMB)}, disk ${memory(diskSizeMB)}`;
  return `${printable(alias ?? templateID)} · ${shape} · started ${clockTime(startedAt)} · ${until}`;
}

/** @param {Readonly<Record<string, string>>} metadata */
function showMetadata(metadata) {
  const texts = Object.entries(metadata).map(([name, value]) => printable(`${name}=${value}`));
  const isSame =
    texts.length === tags.children.length && texts.every((text, at) => tags.children[at]?.textContent === text);
  if (!isSame) tags.replaceChildren(...texts.map((text) => element("li", "", element("bdi", "", text))));
}
