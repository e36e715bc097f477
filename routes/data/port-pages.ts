/**
 * Port pages: the answer to a client that asked for a port of a sandbox and cannot have it. Programs get JSON, people a
 * page (docs/compatibility.md#ports). Pure.
 */
import type { IncomingHttpHeaders } from "node:http";
import { envdPort } from "../http/plane.ts";

/** The reason why a request does not get to a port, in the words and the fields of E2B. */
export interface PortRefusal {
  readonly sandboxId: string;
  readonly message: string;
  readonly code: number;
  /** Only where the port is the problem. */
  readonly port?: number;
  /** Only where there are too many connections. */
  readonly connectionLimit?: number;
}

export interface PortPage {
  readonly contentType: string;
  readonly body: string;
}

/** The refusal of an unknown, killed or paused sandbox. */
export function sandboxNotFound(sandboxId: string): PortRefusal {
  return { sandboxId, message: "The sandbox was not found", code: 502 };
}

export function portClosed(sandboxId: string, port: number): PortRefusal {
  return { sandboxId, message: "The sandbox is running but port is not open", port, code: 502 };
}

export function tooManyConnections(sandboxId: string, connectionLimit: number): PortRefusal {
  const message = "The sandbox has too many open connections. Close some, or try again later.";
  return { sandboxId, message, connectionLimit, code: 429 };
}

/** The refusal in the form that a client with these headers reads. */
export function renderRefusal(refusal: PortRefusal, headers: IncomingHttpHeaders): PortPage {
  if (!isPerson(headers)) return { contentType: "application/json; charset=utf-8", body: JSON.stringify(refusal) };
  return { contentType: "text/html; charset=utf-8", body: toHtml(refusal) };
}

const browser = /mozilla|chrome|safari|firefox|edge|opera|msie/i;
/** The values of `Sec-Fetch-Mode` in requests that a script makes. */
const scriptModes = new Set(["cors", "no-cors", "same-origin", "websocket"]);

/** Whether a person sees the answer in a browser. A script in a browser is no person. */
function isPerson(headers: IncomingHttpHeaders): boolean {
  if (!browser.test(headers["user-agent"] ?? "")) return false;
  if (scriptModes.has(String(headers["sec-fetch-mode"])) || headers["x-requested-with"] !== undefined) return false;
  const accept = headers.accept?.toLowerCase() ?? "";
  return !accept.includes("json") || accept.includes("html") || accept.includes("*/*");
}

function toHtml({ sandboxId, message, code, port }: PortRefusal): string {
  const [title, advice] =
    port === undefined
      ? [message, ""]
      : [
          `There is no service running on port ${port}`,
          port === envdPort ? "" : `Start one in the sandbox that listens on port ${port}, then load this page again.`,
        ];
  const style = "font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 15vh auto; padding: 0 1rem";
  return (
    `<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">` +
    `<title>${code}: ${escapeHtml(title)}</title></head><body style="${style}"><h1>${escapeHtml(title)}</h1>` +
    `<p>Sandbox <code>${escapeHtml(sandboxId)}</code>${port === undefined ? "" : " is running"}.</p>` +
    `<p>${escapeHtml(advice)}</p></body></html>`
  );
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
