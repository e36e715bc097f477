/**
 * The architecture test holds who may import whom: layers first, then the rooms inside the larger layers. Data flows one
 * way, from routes to runtime to ledger and machine. Nothing imports upwards, and nothing imports in a circle.
 */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize, relative } from "node:path";
import { expect, test } from "vitest";

const root = new URL("..", import.meta.url).pathname;

/** Every layer may import these root files. */
const common = ["errors", "types", "clock", "scope", "log", "run-every", "until-done", "lifecycle-steps"];
/**
 * Folder (or root file) → what it may import of ours, besides itself, from the ground up: a row names only rows above it.
 * Type-only imports of a contract are named by their file.
 */
const rules: Record<string, readonly string[]> = {
  errors: [],
  types: [],
  scope: [],
  clock: [],
  log: [],
  "lifecycle-steps": [],
  "run-every": ["clock"],
  "until-done": ["clock"],
  "storage-roots": [],
  help: [],
  config: ["errors", "storage-roots"],
  "client-environment": [],
  commands: ["errors"],
  "private-folder": ["errors"],
  "run-setup": ["errors"],
  metrics: [],
  tls: common,
  ledger: common,
  machine: common,
  guest: common,
  "guest-machine": [...common, "ledger/snapshots.ts", "machine/driver.ts", "machine/snapshot-files.ts", "guest"],
  template: [
    ...common,
    "ledger",
    "machine/driver.ts",
    "machine/snapshot-files.ts",
    "guest",
    "guest-machine",
    "metrics",
  ],
  team: [...common, "ledger"],
  runtime: [
    ...common,
    "ledger",
    "machine/driver.ts",
    "machine/snapshot-files.ts",
    "guest",
    "guest-machine",
    "metrics",
    "template",
  ],
  e2b: [...common, "runtime/contract.ts", "template/templates.ts", "team/keyring.ts"],
  envd: [
    ...common,
    "e2b",
    "guest/agent.ts",
    "runtime/sessions/session.ts",
    "runtime/processes/process-table.ts",
    "runtime/processes/running-process.ts",
    "runtime/processes/process-subscription.ts",
  ],
  routes: [
    ...common,
    "runtime",
    "template/templates.ts",
    "team/keyring.ts",
    "envd",
    "e2b",
    "config",
    "metrics",
    "guest/agent.ts",
    "machine/driver.ts",
  ],
};
/** They put the parts together and may see all of them. */
const composers = new Set(["daemon", "daemon-engine", "daemon-loops", "daemon-wiring", "follow-template", "main"]);

/**
 * Rooms of a layer, from the ground up: a room may import itself and what its row names, which stands above it. A file of
 * the layer itself may be a row, too. `.` is the layer's other files, which compose the rooms unless `.` has a row.
 */
const rooms: Record<string, Readonly<Record<string, readonly string[]>>> = {
  "src/runtime": {
    "contract.ts": [],
    "lifecycle-samples.ts": [],
    processes: ["lifecycle-samples.ts"],
    machines: ["lifecycle-samples.ts"],
    capacity: ["machines"],
    pool: ["capacity", "machines"],
    sessions: ["lifecycle-samples.ts", "processes", "machines"],
    records: ["contract.ts", "processes", "sessions"],
    "dependencies.ts": ["lifecycle-samples.ts", "machines", "capacity", "pool", "records"],
    sandboxes: ["contract.ts", "dependencies.ts", "machines", "pool", "records", "sessions"],
    restart: ["dependencies.ts", "machines", "pool", "records", "sessions", "sandboxes"],
  },
  // The host side of the guest link. `connect.ts` puts its rooms together.
  "src/guest": {
    "agent.ts": [],
    link: [],
    operations: ["agent.ts", "link"],
  },
  // The engines, which share the layer's own files and know nothing of each other.
  "src/machine": {
    ".": [],
    jail: ["."],
    network: [".", "jail"],
    qemu: [".", "jail", "network"],
    gvisor: [".", "jail", "network"],
    vz: ["."],
  },
  "src/template": {
    "login-path.ts": [],
    assets: [],
    uploads: [],
    machine: [],
    trust: [],
    registry: [],
    "image-disk": ["login-path.ts"],
    images: ["login-path.ts", "assets", "registry", "image-disk"],
    base: ["assets", "machine", "trust"],
    build: ["login-path.ts", "assets", "uploads", "machine", "trust", "registry", "images", "base"],
  },
  routes: {
    http: [],
    console: [],
    data: ["http"],
    control: ["http", "data"],
  },
};

interface Import {
  readonly from: string;
  readonly to: string;
}

function sourceFiles(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
    .filter((name) => /\.(ts|mjs)$/.test(name))
    .map((name) => join(folder, name));
}

function importsOf(file: string): Import[] {
  const text = readFileSync(join(root, file), "utf8");
  const specifiers = [...text.matchAll(/(?:from|import\()\s*"(\.[^"]+)"/g)].map((match) => match[1] ?? "");
  return specifiers.map((specifier) => ({
    from: file,
    to: relative(root, normalize(join(root, dirname(file), specifier))),
  }));
}

/** `src/ledger/open.ts` → `ledger`, `src/errors.ts` → `errors`, `routes/x.ts` → `routes`. */
function layerOf(file: string): string {
  const [top = "", second = ""] = file.split("/");
  return top === "routes" ? "routes" : second.replace(/\.(ts|mjs)$/, "");
}

/** `src/runtime/pool/plan.ts` → `pool`; a file of the layer itself → its name if the table has it, else `.`. */
function roomOf(file: string, layer: string, table: Readonly<Record<string, readonly string[]>>): string {
  const inside = file.slice(layer.length + 1);
  const [first = "", ...rest] = inside.split("/");
  return rest.length > 0 || first in table ? first : ".";
}

/** Whether `allowed` names a row of a table, or a file below it. */
function reaches(allowed: string, row: string): boolean {
  return allowed === row || allowed.startsWith(`${row}/`);
}

const files = [...sourceFiles("src"), ...sourceFiles("routes")];
const imports = files.flatMap(importsOf);

test("the architecture test sees the code it judges", () => {
  expect(files.length).toBeGreaterThan(20);
  expect(imports.length).toBeGreaterThan(50);
});

test("every layer imports only what the table allows", () => {
  const violations = imports.filter(({ from, to }) => {
    const layer = layerOf(from);
    if (composers.has(layer) || layerOf(to) === layer) return false;
    const allowed = rules[layer];
    if (!allowed) return true;
    return !allowed.includes(layerOf(to)) && !allowed.includes(to.replace(/^src\//, ""));
  });
  expect(violations).toEqual([]);
});

test("every room imports only what its row allows", () => {
  const violations = imports.filter(({ from, to }) => {
    const layer = Object.keys(rooms).find((folder) => from.startsWith(`${folder}/`) && to.startsWith(`${folder}/`));
    if (layer === undefined) return false;
    const table = rooms[layer] ?? {};
    const [source, target] = [roomOf(from, layer, table), roomOf(to, layer, table)];
    // The layer's own files put the rooms together, unless they have a row.
    if ((source === "." && !("." in table)) || source === target) return false;
    return !table[source]?.includes(target) && !table[source]?.includes(to.slice(layer.length + 1));
  });
  expect(violations).toEqual([]);
});

test("no layer and no room imports upwards, so that they cannot lead in a circle either", () => {
  const upward = [rules, ...Object.values(rooms)].flatMap((table) => {
    const names = Object.keys(table);
    return Object.entries(table).flatMap(([name, allowed]) =>
      allowed
        .filter((other) => !names.slice(0, names.indexOf(name)).some((below) => reaches(other, below)))
        .map((other) => `${name} → ${other}`),
    );
  });
  expect(upward).toEqual([]);
});

/** Every circle in a graph, as a line with arrows. */
function circlesIn(graph: ReadonlyMap<string, readonly string[]>): string[] {
  const done = new Set<string>();
  const circles: string[] = [];
  const visit = (file: string, path: readonly string[]): void => {
    if (path.includes(file)) circles.push([...path.slice(path.indexOf(file)), file].join(" → "));
    if (done.has(file) || path.includes(file)) return;
    for (const next of graph.get(file) ?? []) visit(next, [...path, file]);
    done.add(file);
  };
  for (const file of graph.keys()) visit(file, []);
  return circles;
}

test("no import leads in a circle", () => {
  const graph = new Map(files.map((file) => [file, importsOf(file).map(({ to }) => to)]));
  expect(circlesIn(graph)).toEqual([]);
});

test("concrete engines are named only where the daemon is put together", () => {
  const named = imports.filter(({ from, to }) => /^src\/machine\/(qemu|vz)/.test(to) && !/^src\/machine\//.test(from));
  expect(named.filter(({ from }) => !composers.has(layerOf(from)))).toEqual([]);
});

test("there is no barrel file", () => {
  expect(files.filter((file) => file.endsWith("/index.ts"))).toEqual([]);
});

/**
 * Rooms of the guest agent (C), from the ground up: room → what its files may include of other rooms. `.` is the level of
 * `main.c` and `agent.c`, which put the rooms together.
 */
const agentFolder = "src/guest-agent";
const agentRooms: Readonly<Record<string, readonly string[]>> = {
  base: [],
  link: ["base"],
  accounts: ["base", "link"],
  process: ["base", "link", "accounts"],
  files: ["base", "link", "accounts"],
  boot: ["base"],
  machine: ["base", "link", "accounts", "process", "files", "boot"],
  ".": ["base", "link", "accounts", "process", "files", "boot", "machine"],
  fuzz: ["base", "link", "."],
};

/** A header and its source count as one file, named without extension: a call needs the header, so it shows as an arrow. */
function agentGraph(): Map<string, string[]> {
  const graph = new Map<string, string[]>();
  const names = readdirSync(join(root, agentFolder), { recursive: true, encoding: "utf8" });
  for (const name of names.filter((name) => /\.[ch]$/.test(name) && !name.startsWith("build/"))) {
    const text = readFileSync(join(root, agentFolder, name), "utf8");
    const included = [...text.matchAll(/^#include "([^"]+)\.h"$/gm)].map((match) => match[1] ?? "");
    const file = name.slice(0, -2);
    graph.set(file, [...(graph.get(file) ?? []), ...included.filter((other) => other !== file)]);
  }
  return graph;
}

test("every room of the guest agent includes only what its row allows", () => {
  const graph = agentGraph();
  const arrows = [...graph].flatMap(([from, targets]) => targets.map((to) => ({ from, to })));
  expect(arrows.length).toBeGreaterThan(100);
  const violations = arrows.filter(({ from, to }) => {
    const [source, target] = [dirname(from), dirname(to)];
    return !graph.has(to) || (source !== target && !agentRooms[source]?.includes(target));
  });
  expect(violations).toEqual([]);
});

test("no include of the guest agent leads in a circle, between files or between rooms", () => {
  const graph = agentGraph();
  const roomGraph = new Map<string, string[]>();
  for (const [from, targets] of graph) {
    const others = targets.map(dirname).filter((room) => room !== dirname(from));
    roomGraph.set(dirname(from), [...new Set([...(roomGraph.get(dirname(from)) ?? []), ...others])]);
  }
  expect(circlesIn(graph)).toEqual([]);
  expect(circlesIn(roomGraph)).toEqual([]);
});
