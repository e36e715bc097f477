/**
 * The cell panel of a sandbox, for templates with the code interpreter: code, its output, results and errors. All of that
 * comes from a guest, so texts are shown as text, tables are built from data, images are images, and HTML is not shown.
 */
import { element, printableLines, setText } from "./dom.js";

const languages = ["python", "javascript", "typescript", "bash", "r", "java"];
/** What of a cell's output is shown, so that an endless one does not fill the page. */
const maxShownCharacters = 200_000;
const maxRows = 50;
const images = /** @type {const} */ ({ png: "image/png", jpeg: "image/jpeg" });

/** One panel for each sandbox with an open cell, shown with its sandbox. */
/** @type {Map<string, CellPanel>} */
const panels = new Map();

/**
 * Opens the cell of a sandbox, or focuses the open one.
 * @param {string} sandboxID
 * @param {HTMLElement} place
 */
export function openCell(sandboxID, place) {
  const known = panels.get(sandboxID);
  if (known) return known.focus();
  const panel = new CellPanel(sandboxID, () => panels.delete(sandboxID));
  panels.set(sandboxID, panel);
  place.append(panel.root);
  panel.focus();
}

/** Shows the panel of one sandbox and hides the others. @param {string} sandboxID */
export function showCell(sandboxID) {
  for (const [id, panel] of panels) panel.root.hidden = id !== sandboxID;
}

/** Disposes the panels of sandboxes that have ended. @param {ReadonlySet<string>} ids */
export function keepCells(ids) {
  for (const [id, panel] of panels) if (!ids.has(id)) panel.dispose();
}

class CellPanel {
  #sandboxID;
  #onClose;
  #language = element("select", "");
  #code = element("textarea", "mono");
  #run = button("Run", "primary");
  #interrupt = button("Interrupt");
  #note = element("span", "muted");
  #output = element("div", "output");
  /** @type {AbortController | undefined} */
  #running;
  #shownCharacters = 0;
  /** @type {string[]} */
  #urls = [];

  /**
   * @param {string} sandboxID
   * @param {() => void} onClose
   */
  constructor(sandboxID, onClose) {
    this.#sandboxID = sandboxID;
    this.#onClose = onClose;
    this.#language.append(...languages.map((name) => element("option", "", name)));
    this.#language.setAttribute("aria-label", "Language");
    this.#code.setAttribute("aria-label", "Code");
    this.#code.rows = 5;
    this.#code.spellcheck = false;
    this.#note.setAttribute("role", "status");
    this.#output.setAttribute("aria-live", "polite");
    this.#interrupt.disabled = true;
    const close = button("Close");
    const actions = element("span", "actions", this.#language, this.#run, this.#interrupt, close);
    const header = element("header", "", element("span", "", "Cell"), this.#note, actions);
    this.root = element("section", "cell", header, this.#code, this.#output);
    this.#run.addEventListener("click", () => void this.#execute());
    this.#interrupt.addEventListener("click", () => this.#running?.abort());
    close.addEventListener("click", () => this.dispose());
    this.#code.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      void this.#execute();
    });
  }

  focus() {
    this.#code.focus();
  }

  dispose() {
    this.#running?.abort();
    this.#clear();
    this.root.remove();
    this.#onClose();
  }

  async #execute() {
    if (this.#running) return;
    const running = new AbortController();
    this.#running = running;
    this.#run.disabled = true;
    this.#interrupt.disabled = false;
    this.#clear();
    setText(this.#note, "running");
    try {
      setText(this.#note, await this.#stream(running.signal));
    } catch (error) {
      // The service interrupts a cell when its client leaves.
      setText(this.#note, running.signal.aborted ? "interrupted" : String(error));
    }
    this.#running = undefined;
    this.#run.disabled = false;
    this.#interrupt.disabled = true;
  }

  /** Runs the cell and shows its lines as they come. @param {AbortSignal} signal */
  async #stream(signal) {
    const response = await fetch("/execute", {
      method: "POST",
      signal,
      headers: {
        "content-type": "application/json",
        "e2b-sandbox-id": this.#sandboxID,
        "e2b-sandbox-port": "49999",
      },
      body: JSON.stringify({ code: this.#code.value, language: this.#language.value }),
    });
    if (!response.ok || !response.body) {
      const text = (await response.text()).slice(0, 400);
      return response.status === 502 ? "This sandbox has no code interpreter." : printableLines(text);
    }
    let note = "the connection broke";
    let rest = "";
    const decoder = new TextDecoder();
    const reader = response.body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return note;
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) note = this.#show(JSON.parse(line)) ?? note;
    }
  }

  /** Shows one line of the stream. Gives the note at the end. @param {any} line */
  #show(line) {
    if (line.type === "stdout" || line.type === "stderr") this.#text(line.type, String(line.text));
    else if (line.type === "error") this.#text("error", `${line.name}: ${line.value}\n${line.traceback}`);
    else if (line.type === "result") this.#result(line);
    else if (line.type === "number_of_executions") setText(this.#note, `running [${Number(line.execution_count)}]`);
    else if (line.type === "end_of_execution") return "done";
    return undefined;
  }

  /** @param {any} result */
  #result(result) {
    for (const [field, type] of Object.entries(images)) {
      if (typeof result[field] !== "string") continue;
      const bytes = Uint8Array.from(atob(result[field].replace(/\s/g, "")), (character) => character.charCodeAt(0));
      const url = URL.createObjectURL(new Blob([bytes], { type }));
      this.#urls.push(url);
      const image = element("img");
      image.src = url;
      image.alt = typeof result.text === "string" ? printableLines(result.text).slice(0, 200) : "a figure";
      this.#output.append(image);
      return;
    }
    if (isTable(result.data)) this.#output.append(tableOf(result.data));
    else if (typeof result.text === "string") this.#text("result", `${result.text}\n`);
    else this.#text("muted", "A result in a format that the console does not show.\n");
  }

  /**
   * @param {string} kind
   * @param {string} text
   */
  #text(kind, text) {
    const room = maxShownCharacters - this.#shownCharacters;
    if (room <= 0) return;
    this.#shownCharacters += text.length;
    const shown = printableLines(text.slice(0, room));
    const last = this.#output.lastElementChild;
    if (last instanceof HTMLPreElement && last.className === kind) last.append(shown);
    else this.#output.append(element("pre", kind, shown));
    if (text.length > room) this.#output.append(element("pre", "muted", "The rest is not shown."));
  }

  #clear() {
    for (const url of this.#urls) URL.revokeObjectURL(url);
    this.#urls = [];
    this.#shownCharacters = 0;
    this.#output.replaceChildren();
  }
}

/** @param {string} text @param {string} [className] */
function button(text, className = "") {
  const made = element("button", className, text);
  made.type = "button";
  return made;
}

/** @param {unknown} data */
function isTable(data) {
  return typeof data === "object" && data !== null && Object.values(data).every((column) => Array.isArray(column));
}

/** The columns of a data frame as a table. @param {Readonly<Record<string, readonly unknown[]>>} data */
function tableOf(data) {
  const columns = Object.entries(data);
  const count = Math.max(0, ...columns.map(([, values]) => values.length));
  const head = element("tr", "", ...columns.map(([name]) => element("th", "", printableLines(name))));
  const rows = Array.from({ length: Math.min(count, maxRows) }, (_, row) =>
    element("tr", "", ...columns.map(([, values]) => element("td", "", printableLines(String(values[row] ?? ""))))),
  );
  const table = element("table", "", element("thead", "", head), element("tbody", "", ...rows));
  if (count > maxRows) table.append(element("caption", "", `${maxRows} of ${count} rows`));
  return table;
}
