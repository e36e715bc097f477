/**
 * The document test holds the documents to the code: every path and link leads to a file, every heading that is linked to
 * exists, every setting stands in its page, and the lines stay short.
 */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, join, normalize, relative } from "node:path";
import { expect, test } from "vitest";
import { describeSettings } from "../src/config.ts";

const root = new URL("..", import.meta.url).pathname;
const read = (file: string) => readFileSync(join(root, file), "utf8");

const documents = [
  ...readdirSync(root).filter((name) => name.endsWith(".md")),
  ...filesBelow("docs", /\.md$/),
  ...filesBelow("examples", /\.md$/),
];
/** Files whose comments and messages cite sections of documents. */
const sources = ["src", "routes", "scripts", "test", "examples"].flatMap((folder) =>
  filesBelow(folder, /\.(ts|mjs|js|c|h|md)$/),
);

/** Documents that live beside the code they describe. Their paths are written relative to their folder. */
const besideCode = ["src/guest-agent/README.md", "helper-swift/README.md"];

/** Folders of the repository that a path in a document may begin with. */
const folders = "src|routes|scripts|test|docs|migrations|helper-swift|examples|\\.ci|\\.github";
const pathInCode = new RegExp(`^(?:${folders})/[\\w./@-]+\\.\\w+$`);

interface Reference {
  readonly from: string;
  readonly to: string;
}

function filesBelow(folder: string, name: RegExp): string[] {
  if (!existsSync(join(root, folder))) return [];
  return readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
    .filter((file) => name.test(file) && !/(^|\/)(build|node_modules|\.build)\//.test(file))
    .map((file) => join(folder, file));
}

/** The text without its code blocks, whose lines are commands and not prose. */
function proseOf(document: string): string {
  return read(document).replace(/^( *)```[\s\S]*?^ *```$/gm, "");
}

/** `[text](target)`, and the `src` and `srcset` of pictures. Links to other hosts are not followed. */
function linksOf(document: string): Reference[] {
  const text = proseOf(document).replace(/`[^`\n]*`/g, "");
  const targets = [...text.matchAll(/\]\(([^)\s]+)\)|\bsrc(?:set)?="([^"]+)"/g)].map(
    ([, link, image]) => link ?? image,
  );
  return targets
    .filter((target): target is string => target !== undefined && !/^[a-z]+:/.test(target))
    .map((to) => ({ from: document, to }));
}

/** GitHub's anchor of a heading. */
function anchorOf(heading: string): string {
  return heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\s_-]/gu, "")
    .trim()
    .replace(/\s/g, "-");
}

const anchors = new Map<string, ReadonlySet<string>>();
function hasAnchor(document: string, anchor: string): boolean {
  let known = anchors.get(document);
  if (known === undefined) {
    known = new Set([...proseOf(document).matchAll(/^#+ (.*)$/gm)].map(([, heading = ""]) => anchorOf(heading)));
    anchors.set(document, known);
  }
  return known.has(anchor);
}

/** Whether a link leads somewhere: its file exists, and so does the heading after `#`. */
function leads({ from, to }: Reference): boolean {
  const [path = "", anchor] = to.split("#");
  const file = path === "" ? from : normalize(join(dirname(from), path));
  if (!existsSync(join(root, file))) return false;
  if (anchor === undefined) return true;
  return statSync(join(root, file)).isFile() && hasAnchor(file, anchor);
}

test("the document test sees the documents and the sources", () => {
  expect(documents).toContain("README.md");
  expect(documents).toContain(join("docs", "architecture.md"));
  expect(sources.length).toBeGreaterThan(100);
});

test("every link in a document leads to a file and to a heading of it", () => {
  expect([...documents, ...besideCode].flatMap(linksOf).filter((link) => !leads(link))).toEqual([]);
});

test("every path in a document names a file", () => {
  const named = documents.flatMap((from) =>
    [...proseOf(from).matchAll(/`([^`\n]+)`/g)]
      .map(([, code = ""]) => ({ from, to: code }))
      .filter(({ to }) => pathInCode.test(to)),
  );
  expect(named.length).toBeGreaterThan(50);
  expect(named.filter(({ to }) => !existsSync(join(root, to)))).toEqual([]);
});

test("every test that docs/security.md names as its proof exists", () => {
  const named = [...read("docs/security.md").matchAll(/`([a-z-]+(?:\/[a-z-]+)+)`/g)].map(([, name = ""]) => name);
  expect(named.length).toBeGreaterThan(20);
  expect(named.filter((name) => !existsSync(join(root, `test/${name}.test.ts`)))).toEqual([]);
});

test("every section of a document that a source cites exists", () => {
  const cited = sources.flatMap((from) =>
    [...read(from).matchAll(/\bdocs\/([\w/-]+\.md(?:#[\w-]+)?)/g)].map(([, to = ""]) => ({ from, to })),
  );
  expect(cited.filter(({ to }) => !leads({ from: "docs/README.md", to }))).toEqual([]);
});

test("every page of docs/ is in the index, and every decision in the index of decisions", () => {
  const indexed = (index: string) =>
    new Set(linksOf(index).map(({ to }) => normalize(join(dirname(index), to.split("#")[0] ?? ""))));
  const decisions = filesBelow("docs/decisions", /^\d{4}-[\w-]+\.md$/);
  expect(decisions.length).toBeGreaterThan(10);
  expect(decisions.filter((file) => !indexed("docs/decisions/README.md").has(file))).toEqual([]);
  const pages = filesBelow("docs", /^[\w-]+\.md$/).filter((file) => relative("docs", file) !== "README.md");
  expect(pages.filter((file) => !indexed("docs/README.md").has(file))).toEqual([]);
});

test("every setting of the code stands in docs/settings.md, and no other", () => {
  const pairsIn = (text: string) =>
    [...text.matchAll(/--([a-z-]+)[`\s|]+(FIRKIN_[A-Z_]+)/g)]
      .map(([, flag, variable]) => `--${flag} ${variable}`)
      .sort();
  const settings = pairsIn(describeSettings());
  expect(settings.length).toBeGreaterThan(20);
  expect(pairsIn(read("docs/settings.md"))).toEqual(settings);
});

test("the README is a front door of at most 150 lines", () => {
  expect(read("README.md").trimEnd().split("\n").length).toBeLessThanOrEqual(150);
});

test("no line of prose in a document is longer than 120 columns", () => {
  const long = documents.flatMap((document) =>
    proseOf(document)
      .split("\n")
      .filter((line) => line.length > 120 && !line.startsWith("|"))
      .map((line) => `${document}: ${line.slice(0, 60)}`),
  );
  expect(long).toEqual([]);
});
