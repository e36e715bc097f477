/**
 * The list of sandboxes. A row stays the same element from one update to the next, so that it keeps focus and
 * selection.
 */
import { byId, element, printable, setText, within } from "./dom.js";
import { duration, memory } from "./words.js";

/**
 * @typedef {import("../../../src/e2b/schemas.ts").ListedSandbox} Sandbox
 * @typedef {import("../../../src/e2b/schemas.ts").SandboxMetric} Metric
 * @typedef {{ row: HTMLTableRowElement, button: HTMLButtonElement, about: HTMLElement, state: HTMLElement,
 *   left: HTMLElement, cpu: HTMLElement, memory: HTMLElement }} Row
 */

const body = within(byId("sandboxes", HTMLTableElement), "tbody", HTMLTableSectionElement);
const count = byId("list-count", HTMLElement);
const empty = byId("list-empty", HTMLElement);

export class SandboxList extends EventTarget {
  /** @type {readonly Sandbox[]} */
  #sandboxes = [];
  /** @type {Map<string, Row>} */
  #rows = new Map();
  /** @type {string | undefined} */
  #selectedId;

  get sandboxes() {
    return this.#sandboxes;
  }

  /** @returns {Sandbox | undefined} */
  get selected() {
    return this.#sandboxes.find(({ sandboxID }) => sandboxID === this.#selectedId);
  }

  /**
   * @param {readonly Sandbox[]} sandboxes
   * @param {Readonly<Record<string, Metric>>} metrics
   * @param {boolean} more whether the daemon has more than these
   */
  show(sandboxes, metrics, more) {
    const hadFocus = this.#hasFocus();
    const at = this.#sandboxes.findIndex(({ sandboxID }) => sandboxID === this.#selectedId);
    this.#sandboxes = sandboxes;
    const rows = sandboxes.map((sandbox) => this.#update(sandbox, metrics[sandbox.sandboxID]));
    const ids = new Set(sandboxes.map(({ sandboxID }) => sandboxID));
    for (const id of this.#rows.keys()) if (!ids.has(id)) this.#rows.delete(id);
    const isSame = rows.length === body.children.length && rows.every((row, n) => row === body.children[n]);
    if (!isSame) body.replaceChildren(...rows);
    const running = sandboxes.filter(({ state }) => state === "running").length;
    setText(count, `${running} running, ${sandboxes.length - running} paused${more ? ", and more" : ""}`);
    empty.hidden = sandboxes.length > 0;
    // The selected sandbox has ended, so its neighbour takes its place.
    const next = this.selected ?? sandboxes[Math.min(Math.max(at, 0), sandboxes.length - 1)];
    this.#mark(next?.sandboxID);
    if (hadFocus && next) this.#rows.get(next.sandboxID)?.button.focus();
    this.dispatchEvent(new Event("change"));
  }

  /** @param {string} id */
  select(id) {
    if (id === this.#selectedId || !this.#rows.has(id)) return;
    this.#mark(id);
    this.dispatchEvent(new Event("change"));
  }

  /** @param {1 | -1} step */
  move(step) {
    const at = this.#sandboxes.findIndex(({ sandboxID }) => sandboxID === this.#selectedId);
    const next = this.#sandboxes[at + step];
    if (!next) return;
    this.select(next.sandboxID);
    this.focus();
  }

  focus() {
    if (this.#selectedId !== undefined) this.#rows.get(this.#selectedId)?.button.focus();
  }

  #hasFocus() {
    return body.contains(document.activeElement);
  }

  /** @param {string | undefined} id */
  #mark(id) {
    this.#selectedId = id;
    for (const [each, { row, button }] of this.#rows) {
      row.classList.toggle("selected", each === id);
      button.setAttribute("aria-pressed", String(each === id));
      button.tabIndex = each === id ? 0 : -1;
    }
  }

  /**
   * @param {Sandbox} sandbox
   * @param {Metric | undefined} metric
   */
  #update(sandbox, metric) {
    const parts = this.#rows.get(sandbox.sandboxID) ?? this.#make(sandbox.sandboxID);
    const isRunning = sandbox.state === "running";
    setText(parts.about, aboutOf(sandbox));
    setText(parts.state, sandbox.state);
    parts.state.className = `state ${sandbox.state}`;
    setText(parts.left, isRunning ? duration(Date.parse(sandbox.endAt) - Date.now()) : "–");
    setText(parts.cpu, isRunning && metric ? `${metric.cpuUsedPct.toFixed(0)} %` : "–");
    const usedMiB = (metric?.memUsed ?? 0) / 2 ** 20;
    setText(parts.memory, isRunning && metric ? `${memory(usedMiB)}` : "–");
    return parts.row;
  }

  /**
   * @param {string} id
   * @returns {Row}
   */
  #make(id) {
    const button = element("button", "", id);
    button.type = "button";
    const about = element("bdi", "about");
    const state = element("span");
    const cells = { left: element("td", "number"), cpu: element("td", "number"), memory: element("td", "number") };
    const row = element("tr", "", element("td", "", button, about), element("td", "", state), ...Object.values(cells));
    row.addEventListener("click", () => this.select(id));
    const parts = { row, button, about, state, ...cells };
    this.#rows.set(id, parts);
    return parts;
  }
}

/** @param {Sandbox} sandbox */
function aboutOf({ alias, templateID, metadata }) {
  const pairs = Object.entries(metadata).map(([name, value]) => `${name}=${value}`);
  return printable([alias ?? templateID, ...pairs].join(" · "));
}
