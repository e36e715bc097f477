/** The actions of a user on a sandbox. Each is one call to the daemon. */
import { api } from "./api.js";
import { ask, byId, element, printable, setText, within } from "./dom.js";

const extensionSeconds = 15 * 60;

/** @param {string} id */
const path = (id) => `/sandboxes/${encodeURIComponent(id)}`;

/**
 * Asks for a template and options, and creates a sandbox.
 * @returns {Promise<string | undefined>} its id; undefined when the user dismissed the dialog
 */
export async function createSandbox() {
  const dialog = byId("create-dialog", HTMLDialogElement);
  const field = (/** @type {string} */ name) => within(dialog, `input[name=${name}]`, HTMLInputElement);
  const template = within(dialog, "select", HTMLSelectElement);
  const chosen = template.value;
  const templates = await api("/templates");
  template.replaceChildren(...templates.map(optionOf));
  template.value = chosen || template.options[0]?.value || "";
  if ((await ask(dialog)) !== "create") return undefined;
  const { sandboxID } = await api("/v2/sandboxes", {
    method: "POST",
    body: {
      templateID: template.value,
      timeout: field("minutes").valueAsNumber * 60,
      metadata: parseMetadata(field("metadata").value),
      autoPause: field("autoPause").checked,
      allow_internet_access: field("internet").checked,
    },
  });
  return sandboxID;
}

/** @param {{ templateID: string, aliases: string[] }} template */
function optionOf({ templateID, aliases }) {
  const option = element("option", "", printable(aliases[0] ?? templateID));
  option.value = templateID;
  return option;
}

/** @param {string} text */
function parseMetadata(text) {
  const pairs = text.split(/\s+/).filter((pair) => pair !== "");
  return Object.fromEntries(
    pairs.map((pair) => {
      const at = pair.indexOf("=");
      return at < 0 ? [pair, ""] : [pair.slice(0, at), pair.slice(at + 1)];
    }),
  );
}

/** @param {string} id */
export async function pause(id) {
  await api(`${path(id)}/pause`, { method: "POST" });
}

/** @param {string} id */
export async function resume(id) {
  await api(`${path(id)}/resume`, { method: "POST", body: { timeout: extensionSeconds } });
}

/** @param {string} id */
export async function extend(id) {
  await api(`${path(id)}/timeout`, { method: "POST", body: { timeout: extensionSeconds } });
}

/**
 * @param {string} id
 * @returns {Promise<string>} the id of the new sandbox
 */
export async function fork(id) {
  const [child] = await api(`${path(id)}/fork`, { method: "POST", body: { timeout: extensionSeconds } });
  if (child.error) throw new Error(child.error.message);
  return child.sandbox.sandboxID;
}

/**
 * @param {string} id
 * @returns {Promise<boolean>} false when the user dismissed the dialog
 */
export async function kill(id) {
  setText(byId("kill-name", HTMLElement), id);
  if ((await ask(byId("kill-dialog", HTMLDialogElement))) !== "kill") return false;
  await api(path(id), { method: "DELETE" });
  return true;
}
