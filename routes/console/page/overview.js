/** The overview of the daemon: engine, capacity, warm pool, quarantine. */
import { byId, element, printable, setText, within } from "./dom.js";
import { clockTime, memory } from "./words.js";

/** @typedef {import("../../../src/e2b/daemon-schemas.ts").Capacity["sandboxes"]} Budget */

const engine = byId("engine", HTMLElement);
const meters = byId("capacity", HTMLUListElement);
const quarantine = byId("quarantine", HTMLElement);

/** @param {import("../../../src/e2b/daemon-schemas.ts").Capacity} capacity */
export function showCapacity(capacity) {
  const { warmPool, pausedInMemory, waiting } = capacity;
  const [version = ""] = capacity.engineVersion.split(/[ (]/);
  const acceleration = capacity.acceleration === "none" ? [] : [capacity.acceleration.toUpperCase()];
  setText(engine, [`${capacity.engine} ${version}`, ...acceleration].join(" · "));
  engine.title = capacity.chosenBecause ?? "";
  const pool = [`${warmPool.ready} ready`];
  if (warmPool.warming > 0) pool.push(`${warmPool.warming} warming`);
  if (warmPool.leaving > 0) pool.push(`${warmPool.leaving} leaving`);
  meters.replaceChildren(
    meter("Sandboxes", capacity.sandboxes, String),
    meter("vCPUs", capacity.cpuCount, String),
    meter("Memory", capacity.memoryMB, memory),
    meter("Disk", capacity.diskSizeMB, memory),
    plain("Warm pool", pool.join(", ")),
    ...(pausedInMemory > 0 ? [plain("Paused in memory", `${pausedInMemory} sandboxes`)] : []),
    ...(waiting > 0 ? [plain("Waiting", `${waiting} creates`)] : []),
  );
}

/**
 * @param {string} name
 * @param {Budget} budget
 * @param {(amount: number) => string} words
 */
function meter(name, { active, warm, limit }, words) {
  const track = element("span", "track");
  for (const [kind, amount] of /** @type {const} */ ([
    ["active", active],
    ["warm", warm],
  ])) {
    const part = element("span", kind);
    part.style.width = `${(100 * amount) / Math.max(limit, 1)}%`;
    track.append(part);
  }
  const made = plain(name, `${words(active + warm)} / ${words(limit)}`);
  made.title = `${words(active)} in sandboxes, ${words(warm)} in the warm pool, of ${words(limit)}`;
  made.append(track);
  return made;
}

/**
 * @param {string} name
 * @param {string} amount
 */
function plain(name, amount) {
  return element("li", "", element("span", "name", name), element("span", "amount", amount));
}

/** @param {import("../../../src/e2b/daemon-schemas.ts").QuarantineList["entries"]} entries */
export function showQuarantine(entries) {
  quarantine.hidden = entries.length === 0;
  const rows = entries.map(({ kind, name, reason, at }) =>
    element(
      "tr",
      "",
      element("td", "", `${printable(kind)} `, element("bdi", "mono", printable(name))),
      element("td", "", element("bdi", "", printable(reason))),
      element("td", "number", clockTime(at)),
    ),
  );
  within(quarantine, "tbody", HTMLTableSectionElement).replaceChildren(...rows);
}
