/**
 * The terminal panel of a sandbox: xterm.js at one end of a WebSocket, a login shell at the other. The output comes
 * from a guest, so links in it lead nowhere, and it cannot set the page's title or clipboard. After a dropped
 * connection the panel goes on where it was.
 */
import { ApiError, openSocket } from "./api.js";
import { element, setText } from "./dom.js";
import { FitAddon } from "./vendor/addon-fit.mjs";
import { Terminal } from "./vendor/xterm.mjs";

/** The panel asks the daemon to wait while this much output is not drawn, until a quarter is left. */
const maxUndrawnBytes = 512 * 1024;
const reconnectMs = [500, 1_000, 2_000, 4_000, 8_000];
/** `closeCodes.done` of the protocol: hang up, or the shell has ended. */
const done = 1000;
/** The connection broke, or the daemon stopped. The shell may still be there. */
const brokenCodes = new Set([1001, 1006, 4503]);

const dark = matchMedia("(prefers-color-scheme: dark)");

export class TerminalPanel {
  /** @readonly */
  #sandboxID;
  #terminal = new Terminal({
    fontFamily: "ui-monospace, 'Cascadia Mono', 'DejaVu Sans Mono', monospace",
    fontSize: 13,
    scrollback: 5_000,
    screenReaderMode: true,
    linkHandler: { activate: () => {} },
    theme: themeOf(),
  });
  #fit = new FitAddon();
  #title = element("span", "", "Terminal");
  #note = element("span", "muted");
  #screen = element("div", "screen");
  #encoder = new TextEncoder();
  /** @type {WebSocket | undefined} */
  #socket;
  /** @type {{ pid: number, stream: string } | undefined} */
  #process;
  /** The number of bytes of output that came. */
  #offset = 0;
  #undrawnBytes = 0;
  #isPaused = false;
  #attempts = 0;
  #isOver = false;
  #onTheme = () => {
    this.#terminal.options.theme = themeOf();
  };

  /**
   * @param {string} sandboxID
   * @param {() => void} onClose
   * @param {() => void} onCommand called when a command was sent
   */
  constructor(sandboxID, onClose, onCommand) {
    this.#sandboxID = sandboxID;
    this.#note.setAttribute("role", "status");
    const close = element("button", "", "Close");
    close.type = "button";
    close.addEventListener("click", () => {
      this.dispose();
      onClose();
    });
    const right = element("span", "actions", this.#note, close);
    this.root = element("div", "shell", element("header", "", this.#title, right), this.#screen);
    this.#terminal.loadAddon(this.#fit);
    this.#terminal.onData((data) => {
      this.#send(this.#encoder.encode(data));
      if (data.includes("\r")) onCommand();
    });
    this.#terminal.onBinary((data) => this.#send(Uint8Array.from(data, (char) => char.charCodeAt(0))));
    this.#terminal.onResize(({ cols: columns, rows }) => this.#say({ type: "resize", columns, rows }));
    dark.addEventListener("change", this.#onTheme);
  }

  /** Connects. The panel must be in the page already. */
  async open() {
    this.#terminal.open(this.#screen);
    new ResizeObserver(() => this.fit()).observe(this.#screen);
    this.fit();
    await this.#connect();
  }

  /** Fits the terminal to its panel while the panel is shown. */
  fit() {
    if (this.#screen.clientWidth > 0) this.#fit.fit();
  }

  focus() {
    this.#terminal.focus();
  }

  /** Hangs up the shell. */
  dispose() {
    this.#isOver = true;
    this.#socket?.close(done);
    dark.removeEventListener("change", this.#onTheme);
    this.#terminal.dispose();
    this.root.remove();
  }

  async #connect() {
    this.#tell("connecting");
    try {
      const socket = await openSocket(this.#sandboxID, "terminal");
      if (this.#isOver) return socket.close(done);
      this.#socket = socket;
      socket.addEventListener("open", () => this.#greet());
      socket.addEventListener("message", ({ data }) => this.#receive(data));
      socket.addEventListener("close", ({ code, reason }) => this.#afterClose(code, reason));
    } catch (error) {
      const isGone = error instanceof ApiError;
      this.#afterClose(isGone ? 4000 + error.status : 1006, isGone ? error.message : "");
    }
  }

  #greet() {
    const { cols: columns, rows } = this.#terminal;
    if (!this.#process) return this.#say({ type: "start", columns, rows });
    const { pid, stream } = this.#process;
    this.#say({ type: "attach", pid, resume: { stream, offset: this.#offset } });
    this.#say({ type: "resize", columns, rows });
  }

  /** @param {string | ArrayBuffer} data */
  #receive(data) {
    if (typeof data !== "string") return this.#draw(new Uint8Array(data, 1));
    /** @type {import("../../control/process-protocol.ts").ServerMessage} */
    const message = JSON.parse(data);
    switch (message.type) {
      case "started":
      case "attached":
        this.#attempts = 0;
        this.#isPaused = false;
        this.#process = { pid: message.pid, stream: message.stream };
        this.#offset = message.offset;
        setText(this.#title, `Terminal · pid ${message.pid}`);
        this.#tell("Shift+Esc leaves it");
        break;
      case "gap":
        this.#write(`\r\n\x1b[2m[output was lost here]\x1b[0m\r\n`);
        break;
      case "end":
        this.#tell(message.exited ? `ended: exit status ${message.exitCode}` : `ended: signal ${message.signal}`);
        break;
      case "error":
        this.#tell(message.message);
        break;
    }
  }

  /** @param {Uint8Array} bytes */
  #draw(bytes) {
    this.#offset += bytes.byteLength;
    this.#undrawnBytes += bytes.byteLength;
    if (!this.#isPaused && this.#undrawnBytes > maxUndrawnBytes) {
      this.#isPaused = true;
      this.#say({ type: "pause" });
    }
    this.#terminal.write(bytes, () => {
      this.#undrawnBytes -= bytes.byteLength;
      if (!this.#isPaused || this.#undrawnBytes > maxUndrawnBytes / 4) return;
      this.#isPaused = false;
      this.#say({ type: "resume" });
    });
  }

  /**
   * @param {number} code
   * @param {string} reason
   */
  #afterClose(code, reason) {
    this.#socket = undefined;
    if (this.#isOver || code === done) return;
    const waitMs = brokenCodes.has(code) ? reconnectMs[this.#attempts] : undefined;
    if (waitMs === undefined) return this.#tell(reason || "the connection is gone");
    this.#attempts += 1;
    this.#tell("reconnecting");
    setTimeout(() => !this.#isOver && this.#connect(), waitMs);
  }

  /** @param {import("../../control/process-protocol.ts").ClientMessage} message */
  #say(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  /**
   * Keystrokes and pastes, in messages of the size that the daemon takes.
   * @param {Uint8Array<ArrayBuffer>} bytes
   */
  #send(bytes) {
    if (!this.#process || this.#socket?.readyState !== WebSocket.OPEN) return;
    for (let at = 0; at < bytes.byteLength; at += 65_536) this.#socket.send(bytes.subarray(at, at + 65_536));
  }

  /** @param {string} text */
  #write(text) {
    this.#terminal.write(text);
  }

  /** @param {string} text */
  #tell(text) {
    setText(this.#note, text);
  }
}

function themeOf() {
  return dark.matches
    ? { background: "#101114", foreground: "#e3e4e8", cursor: "#e0a06a", selectionBackground: "#4a3a2c" }
    : {
        background: "#fffdfa",
        foreground: "#22242a",
        cursor: "#a3561c",
        selectionBackground: "#ecd9c6",
        white: "#6b6e76",
        brightWhite: "#3c3f47",
        yellow: "#8a6100",
        brightYellow: "#8a6100",
        blue: "#2c5f9b",
        brightBlue: "#2c5f9b",
        magenta: "#8a3f8f",
        brightMagenta: "#8a3f8f",
        green: "#1d7a4a",
        brightGreen: "#1d7a4a",
        cyan: "#1f6f80",
        brightCyan: "#1f6f80",
      };
}
