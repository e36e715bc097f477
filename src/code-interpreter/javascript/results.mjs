/** Values of cells as results, in the formats that a client knows. */
import { inspect } from "node:util";
import { sendLine } from "./link.mjs";

const methods = {
  _toHtml: "html",
  _toSvg: "svg",
  _toPng: "png",
  _toJpeg: "jpeg",
};

const fields = {
  "text/plain": "text",
  "text/html": "html",
  "text/markdown": "markdown",
  "text/latex": "latex",
  "image/svg+xml": "svg",
  "image/png": "png",
  "image/jpeg": "jpeg",
  "application/pdf": "pdf",
  "application/json": "json",
  "application/javascript": "javascript",
  "e2b/data": "data",
  "e2b/chart": "chart",
};

/** Sends a value as a result. `undefined` is none. */
export function sendValue(value, isMain) {
  if (value !== undefined) sendResult(formatsOf(value), isMain);
}

/** Sends a result that is ready: an object with a value for each of a result's fields, or by MIME type. */
function sendResult(formats, isMain) {
  const result = {};
  const extra = {};
  for (const [name, value] of Object.entries(formats)) {
    const field = fields[name] ?? (Object.values(fields).includes(name) ? name : undefined);
    if (field) result[field] = value;
    else extra[name] = value;
  }
  sendLine({ type: "result", ...result, extra, is_main_result: isMain });
}

/** Sends an error as the execution's. Anything may be thrown. */
export function sendError(error) {
  const isError = error instanceof Error || Object.prototype.toString.call(error) === "[object Error]";
  sendLine({
    type: "error",
    name: isError ? String(error.name) : "Error",
    value: isError ? String(error.message) : inspect(error),
    traceback: isError ? tracebackOf(error) : "",
  });
}

/** The lines of a stack without a separator, as clients know them, up to where the kernel begins. */
function tracebackOf(error) {
  const lines = String(error.stack ?? "").split("\n");
  const end = lines.findIndex((line) => /^\s+at (sigintHandlersWrap|Script\.runInThisContext) \(node:vm/.test(line));
  return lines.slice(0, end === -1 ? lines.length : end).join("");
}

function formatsOf(value) {
  const formats = { text: withoutQuotes(inspect(value)) };
  if (value === null || (typeof value !== "object" && typeof value !== "function")) return formats;
  for (const [method, field] of Object.entries(methods)) {
    if (typeof value[method] === "function") formats[field] = asText(value[method]());
  }
  if (typeof value._toMime === "function") {
    for (const [type, content] of Object.entries(value._toMime())) formats[fields[type] ?? type] = content;
  }
  return formats;
}

/** Images may be bytes. */
const asText = (content) => (Buffer.isBuffer(content) ? content.toString("base64") : content);

function withoutQuotes(text) {
  const quoted = text.length > 1 && text[0] === text.at(-1) && /['"]/.test(text[0]);
  return quoted ? text.slice(1, -1) : text;
}

/** The helper `$$` of cells: results in a format, displays, and cells that end later. */
export function makeHelper(cell) {
  const formatters = (isMain) => {
    const give = (formats) => sendResult(formats, isMain);
    return {
      text: (text) => give({ text: String(text) }),
      html: (html) => give({ html: String(html) }),
      svg: (svg) => give({ svg: String(svg) }),
      png: (png) => give({ png: asText(png) }),
      jpeg: (jpeg) => give({ jpeg: asText(jpeg) }),
      json: (json) => give({ json }),
      markdown: (markdown) => give({ markdown: String(markdown) }),
      latex: (latex) => give({ latex: String(latex) }),
      mime: (bundle) => give(bundle),
    };
  };
  return {
    ...formatters(true),
    display: () => formatters(false),
    async: () => cell.endLater(),
    sendResult: (value) => cell.end(() => sendValue(value, true)),
    sendError: (error) => cell.end(() => sendError(error)),
    done: (value) => cell.end(() => sendValue(value, true)),
  };
}
