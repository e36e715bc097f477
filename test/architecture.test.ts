/**
 * Who may import whom (shared style 2.2). Data flows one way: routes → runtime → ledger and machine; nothing depends
 * upwards, and nothing imports in a circle.
 */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize, relative } from "node:path";
import { expect, test } from "vitest";

const root = new URL("..", import.meta.url).pathname;

/** Folder (or root file) → what it may import of ours, besides itself. Type-only imports of a contract are named. */
const common = ["errors", "types", "clock", "scope", "log", "run-every", "until-done", "lifecycle-steps"];
const rules: Record<string, readonly string[]> = {
  errors: [],
  types: [],
  scope: [],
  clock: [],
  log: [],
  "lifecycle-steps": [],
  "run-every": ["clock"],
  "until-done": ["clock"],
  config: ["errors"],
  "client-environment": ["errors"],
  metrics: [],
  tls: common,
  ledger: common,
  machine: common,
  guest: common,
  e2b: [...common, "runtime/runtime.ts", "runtime/templates.ts", "runtime/team.ts"],
  envd: [
    ...common,
    "e2b",
    "guest/agent.ts",
    "runtime/session.ts",
    "runtime/process-table.ts",
    "runtime/running-process.ts",
    "runtime/process-subscription.ts",
  ],
  template: [...common, "ledger", "machine/driver.ts", "machine/snapshot-files.ts", "guest", "metrics"],
  runtime: [...common, "ledger", "machine/driver.ts", "machine/snapshot-files.ts", "guest", "metrics", "template"],
  routes: [...common, "runtime", "envd", "e2b", "config", "metrics", "guest/agent.ts", "machine/driver.ts"],
};
/** They put the parts together and may see all of them. */
const composers = new Set(["daemon", "daemon-loops", "main"]);

interface Import {
  readonly from: string;
  readonly to: string;
}

function sourceFiles(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts"))
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
  return top === "routes" ? "routes" : second.replace(/\.ts$/, "");
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

test("no import leads in a circle", () => {
  const graph = new Map(files.map((file) => [file, importsOf(file).map(({ to }) => to)]));
  const done = new Set<string>();
  const circles: string[] = [];
  const visit = (file: string, path: readonly string[]): void => {
    if (path.includes(file)) circles.push([...path.slice(path.indexOf(file)), file].join(" → "));
    if (done.has(file) || path.includes(file)) return;
    for (const next of graph.get(file) ?? []) visit(next, [...path, file]);
    done.add(file);
  };
  for (const file of files) visit(file, []);
  expect(circles).toEqual([]);
});

test("concrete engines are named only where the daemon is put together", () => {
  const named = imports.filter(
    ({ from, to }) => /^src\/machine\/(qemu|vz|gvisor|fake)/.test(to) && !/^src\/machine\//.test(from),
  );
  expect(named.filter(({ from }) => !composers.has(layerOf(from)))).toEqual([]);
});

test("there is no barrel file", () => {
  expect(files.filter((file) => file.endsWith("/index.ts"))).toEqual([]);
});
