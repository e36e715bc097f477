/** The latency waterfall of one sandbox: restore, probe, command start, first byte. */
import { byId, element, setText, within } from "./dom.js";
import { commandsOf, lastStart } from "./latency.js";
import { clockTime, milliseconds } from "./words.js";

const table = byId("waterfall", HTMLTableElement);
const more = byId("waterfall-more", HTMLElement);

/** @type {Readonly<Record<string, string>>} */
const scenarios = {
  create: "created from a snapshot",
  pool: "created from the warm pool",
  resume: "resumed",
  fork: "forked",
  followup: "followed up",
};

/** @param {import("../../../src/e2b/schemas.ts").SandboxLatency["samples"]} samples */
export function showLatency(samples) {
  const start = lastStart(samples);
  const caption = within(table, "caption", HTMLTableCaptionElement);
  const rows = within(table, "tbody", HTMLTableSectionElement);
  if (!start) {
    setText(caption, "No latency samples of its start are kept.");
    rows.replaceChildren();
  } else {
    const how = scenarios[start.scenario] ?? start.scenario;
    setText(caption, `Last start: ${how} at ${clockTime(start.at)}, ${milliseconds(start.totalMs)} to here`);
    rows.replaceChildren(...start.stages.map((stage) => rowOf(stage, start.totalMs)));
  }
  const { count, startMs, firstByteMs } = commandsOf(samples);
  const first = firstByteMs === undefined ? "" : `, ${milliseconds(firstByteMs)} to the first byte`;
  const commands = `${count} ${count === 1 ? "command" : "commands"}: median ${milliseconds(startMs ?? 0)} to start${first}`;
  setText(more, count === 0 ? "No command yet." : commands);
}

/**
 * @param {import("./latency.js").Stage} stage
 * @param {number} totalMs
 */
function rowOf({ span, name, fromMs, durationMs }, totalMs) {
  const piece = element("div", `span ${span}`);
  piece.style.left = `${(100 * fromMs) / totalMs}%`;
  piece.style.width = `${(100 * durationMs) / totalMs}%`;
  const heading = element("th", "", name);
  heading.scope = "row";
  const bar = element("td", "", element("div", "lane", piece));
  return element("tr", "", heading, bar, element("td", "number", milliseconds(durationMs)));
}
