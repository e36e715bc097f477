/** The order of Debian's package versions (Debian policy 5.6.12). */

/**
 * Negative when `a` is older than `b`, positive when it is newer.
 * @param {string} a
 * @param {string} b
 */
export function compareVersions(a, b) {
  const [left, right] = [split(a), split(b)];
  for (const [index, part] of left.entries()) {
    const order = comparePart(part, right[index] ?? "");
    if (order !== 0) return order;
  }
  return 0;
}

/**
 * Epoch, upstream version, revision.
 * @param {string} version
 */
function split(version) {
  const [, epoch = "0", upstream = "", revision = "0"] = /^(?:(\d+):)?(.*?)(?:-([^-]*))?$/.exec(version) ?? [];
  return [epoch, upstream, revision];
}

/**
 * Text and numbers in turn, text first.
 * @param {string} a
 * @param {string} b
 */
function comparePart(a, b) {
  const [left, right] = [a.split(/(\d+)/), b.split(/(\d+)/)];
  for (let index = 0; index < Math.max(left.length, right.length); index++) {
    const [one = "", other = ""] = [left[index], right[index]];
    const order = index % 2 === 0 ? compareText(one, other) : Number(one) - Number(other);
    if (order !== 0) return order;
  }
  return 0;
}

/**
 * @param {string} a
 * @param {string} b
 */
function compareText(a, b) {
  for (let index = 0; index < Math.max(a.length, b.length); index++) {
    const order = weight(a[index]) - weight(b[index]);
    if (order !== 0) return order;
  }
  return 0;
}

/**
 * A tilde is before the end, letters come before all else.
 * @param {string | undefined} character
 */
function weight(character) {
  if (character === undefined) return 0;
  if (character === "~") return -1;
  return character.charCodeAt(0) + (/[a-z]/i.test(character) ? 0 : 256);
}
