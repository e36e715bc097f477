/**
 * Functions that make and change elements. Guests choose names, metadata and messages, so the page shows every value of
 * the daemon as text and never parses one as HTML.
 */

/**
 * The element with that id.
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} type
 * @returns {T}
 */
export function byId(id, type) {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`the page has no ${type.name} #${id}`);
  return found;
}

/**
 * The first element in `root` that matches.
 * @template {Element} T
 * @param {ParentNode} root
 * @param {string} selector
 * @param {new () => T} type
 * @returns {T}
 */
export function within(root, selector, type) {
  const found = root.querySelector(selector);
  if (!(found instanceof type)) throw new Error(`there is no ${type.name} ${selector}`);
  return found;
}

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {string} className
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function element(tag, className = "", ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/**
 * Sets a text, and changes the page only when the text differs.
 * @param {Element} target
 * @param {string} text
 */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/**
 * A text of unknown origin on one line. Characters without a shape, and those that turn the direction of text, become
 * visible.
 * @param {string} text
 */
export function printable(text) {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "\u{fffd}");
}

/**
 * The same for a text of several lines.
 * @param {string} text
 */
export function printableLines(text) {
  return text.replace(/[^\P{Cc}\n\t]|[\p{Cf}\p{Zl}\p{Zp}]/gu, "\u{fffd}");
}

/**
 * The last answer of each dialog, which comes a moment after the dialog has closed.
 * @type {WeakMap<HTMLDialogElement, Promise<string>>}
 */
const answers = new WeakMap();

/**
 * A dialog's answer: the value of the button that closed it, empty when it was dismissed.
 * @param {HTMLDialogElement} dialog
 * @returns {Promise<string>}
 */
export async function ask(dialog) {
  // Otherwise the news that it closed the last time would answer this question.
  await answers.get(dialog);
  dialog.returnValue = "";
  dialog.showModal();
  const answer = new Promise((/** @type {(value: string) => void} */ resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
  });
  answers.set(dialog, answer);
  return answer;
}
