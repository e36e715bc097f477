/** Texts for amounts and times. */

/** @param {number} ms */
export function milliseconds(ms) {
  if (ms >= 10_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}

/** @param {number} ms */
export function duration(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor((seconds % 3600) / 60)];
  if (hours > 0) return `${hours} h ${String(minutes).padStart(2, "0")} min`;
  if (minutes > 0) return `${minutes} min ${String(seconds % 60).padStart(2, "0")} s`;
  return `${seconds} s`;
}

/** @param {number} mebibytes */
export function memory(mebibytes) {
  const units = ["MiB", "GiB", "TiB"];
  let [amount, at] = [mebibytes, 0];
  for (; amount >= 1024 && at < units.length - 1; at++) amount /= 1024;
  return `${Number(amount.toFixed(amount < 100 && at > 0 ? 1 : 0))} ${units[at]}`;
}

/** @param {string} time RFC 3339 */
export function clockTime(time) {
  return new Date(time).toLocaleTimeString([], {
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
    hour12: false,
  });
}
