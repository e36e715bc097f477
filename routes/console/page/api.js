/** The daemon's HTTP API, with the key that this tab was given. The key lives in the tab's session storage only. */

const storedKey = "firkin-api-key";

/** An error that the daemon answered. */
export class ApiError extends Error {
  /**
   * @param {number} status
   * @param {string} message
   */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Takes the key out of the address (`/#key=…`), so that it is neither seen nor bookmarked. */
export function takeKeyFromAddress() {
  const key = new URLSearchParams(location.hash.slice(1)).get("key");
  if (key === null) return;
  history.replaceState(null, "", location.pathname);
  setKey(key);
}

/** @param {string} key */
export function setKey(key) {
  sessionStorage.setItem(storedKey, key.trim());
}

export function hasKey() {
  return sessionStorage.getItem(storedKey) !== null;
}

/**
 * Calls the daemon and returns the parsed body of its answer.
 * @param {string} path
 * @param {{ method?: string, body?: unknown }} [options]
 * @returns {Promise<any>}
 * @throws {ApiError}
 */
export async function api(path, { method = "GET", body } = {}) {
  const response = await fetch(path, {
    method,
    headers: {
      "x-api-key": sessionStorage.getItem(storedKey) ?? "",
      ...(body === undefined ? {} : { "content-type": "application/json" }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  const parsed = text === "" ? undefined : JSON.parse(text);
  if (!response.ok) throw new ApiError(response.status, parsed?.message ?? response.statusText);
  return parsed;
}

/**
 * Lists sandboxes, newest first, page by page, until there are `limit`.
 * @param {number} limit
 * @returns {Promise<{ sandboxes: import("../../../src/e2b/schemas.ts").ListedSandbox[], more: boolean }>}
 */
export async function listSandboxes(limit) {
  const headers = { "x-api-key": sessionStorage.getItem(storedKey) ?? "" };
  /** @type {import("../../../src/e2b/schemas.ts").ListedSandbox[]} */
  const sandboxes = [];
  let token = "";
  do {
    const query = new URLSearchParams({ state: "running,paused", ...(token && { nextToken: token }) });
    const response = await fetch(`/v2/sandboxes?${query}`, { headers });
    const page = await response.json();
    if (!response.ok) throw new ApiError(response.status, page.message);
    sandboxes.push(...page);
    token = response.headers.get("x-next-token") ?? "";
  } while (token !== "" && sandboxes.length < limit);
  return { sandboxes, more: token !== "" };
}

/**
 * Opens a WebSocket to a sandbox. A browser cannot send the key with it, so the key buys a ticket first.
 * @param {string} sandboxID
 * @param {import("../../control/process-protocol.ts").ProcessSocketKind} kind
 */
export async function openSocket(sandboxID, kind) {
  const { ticket } = await api(`/sandboxes/${encodeURIComponent(sandboxID)}/ticket`, { method: "POST" });
  const address = new URL(`/sandboxes/${encodeURIComponent(sandboxID)}/${kind}?ticket=${ticket}`, location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  return socket;
}
