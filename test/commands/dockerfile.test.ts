/** Dockerfiles as `firkin build` reads them: what becomes of each instruction, and what is refused by its line. */
import { readdirSync, readFileSync } from "node:fs";
import fc from "fast-check";
import { expect, test } from "vitest";
import { parseDockerfile } from "../../src/commands/dockerfile.ts";
import { isDomainError } from "../../src/errors.ts";

const stepsOf = (text: string, args = {}) => parseDockerfile(`FROM a\n${text}`, args).steps.slice(2, -2);
const run = (command: string) => ({ type: "RUN", args: [command] });

test("a file without user and folder begins as root in / and ends as user at home", () => {
  expect(parseDockerfile("from python:3\nRUN true")).toEqual({
    image: "python:3",
    steps: [
      { type: "USER", args: ["root"] },
      { type: "WORKDIR", args: ["/"] },
      run("true"),
      { type: "USER", args: ["user"] },
      { type: "WORKDIR", args: ["/home/user"] },
    ],
    startCommand: undefined,
    warnings: [],
  });
  const own = parseDockerfile("FROM a\nUSER web:web\nWORKDIR /app").steps;
  expect(own.slice(2)).toEqual([
    { type: "USER", args: ["web"] },
    { type: "WORKDIR", args: ["/app"] },
  ]);
});

test("lines go on, comments and empty lines are left out, lists are commands", () => {
  expect(stepsOf('# x\nRUN a && \\\n  # y\n\n  b\nRUN ["echo", "a b", "it\'s"]')).toEqual([
    run("a &&   b"),
    run("echo 'a b' 'it'\\''s'"),
  ]);
});

test("variables are put in where the guest does not do it", () => {
  // biome-ignore lint/suspicious/noTemplateCurlyInString: Docker fills it in
  const text = "ARG V=1\nENV A=\"x y\" B=$V C='$V'\nENV OLD a b  c\nCOPY $A/${NONE:-d} /e/${V:+f}\nRUN echo $A";
  expect(stepsOf(text)).toEqual([
    { type: "ENV", args: ["V", "1"] },
    { type: "ENV", args: ["A", "x y", "B", "$V", "C", "$V"] },
    { type: "ENV", args: ["OLD", "a b  c"] },
    { type: "COPY", from: undefined, sources: ["x y/d"], destination: "/e/f", owner: "", mode: "" },
    run("echo $A"),
  ]);
  // biome-ignore lint/suspicious/noTemplateCurlyInString: Docker fills it in
  expect(parseDockerfile("ARG TAG=1\nFROM a:${TAG}").image).toBe("a:1");
  expect(parseDockerfile("ARG TAG=1\nFROM a:$TAG AS x", { TAG: "2" }).image).toBe("a:2");
});

test("COPY has owner, mode, several sources and lists", () => {
  expect(stepsOf('COPY --chown=a:b --chmod=755 one two /to/\nADD ["a b", "/c d"]')).toEqual([
    { type: "COPY", from: undefined, sources: ["one", "two"], destination: "/to/", owner: "a:b", mode: "755" },
    { type: "COPY", from: undefined, sources: ["a b"], destination: "/c d", owner: "", mode: "" },
  ]);
});

test("a COPY takes files from a stage by its name or number, or from an image", () => {
  const { image, steps } = parseDockerfile(
    "FROM go:1 AS Build\nENV A=/out\nRUN make\nFROM b\nCOPY --from=build /bin/x /y/\n" +
      "COPY --from=0 /bin/z /z\nCOPY --from=uv:1 /uv /bin/\nCOPY --from=uv:1 /uvx /bin/",
  );
  expect(image).toBe("b");
  const copies = steps.flatMap((step) => (step.type === "COPY" ? [step.from] : []));
  expect(copies[0]).toMatchObject({ title: "Build", image: "go:1" });
  expect(copies[0]?.steps.slice(2)).toEqual([{ type: "ENV", args: ["A", "/out"] }, run("make")]);
  expect(copies[1]).toBe(copies[0]);
  expect(copies[2]).toMatchObject({ title: "uv:1", image: "uv:1" });
  expect(copies[3]).toBe(copies[2]);
});

test("a stage on another one goes on from it: steps, variables, user and start command", () => {
  const base = "ARG V=1\nFROM a:$V AS base\nENV DIR=/srv\nUSER web\nCMD serve\n";
  const parsed = parseDockerfile(`${base}FROM base\nCOPY x $DIR/`);
  expect(parsed).toMatchObject({ image: "a:1", startCommand: "serve" });
  expect(parsed.steps.slice(2)).toEqual([
    { type: "ENV", args: ["DIR", "/srv"] },
    { type: "USER", args: ["web"] },
    { type: "COPY", from: undefined, sources: ["x"], destination: "/srv/", owner: "", mode: "" },
    { type: "WORKDIR", args: ["/home/user"] },
  ]);
  expect(parseDockerfile(`${base}FROM base\nENTRYPOINT ["run"]`).startCommand).toBe("run");
  expect(parseDockerfile('FROM a\nCMD ["x"]\nENTRYPOINT ["run"]').startCommand).toBe("run x");
});

test.each([
  ["CMD serve --port 80", "serve --port 80"],
  ['CMD ["serve", "a b"]', "serve 'a b'"],
  ['ENTRYPOINT ["run"]\nCMD ["x"]', "run x"],
  ["ENTRYPOINT run\nCMD x", "run"],
  ["CMD a\nCMD b", "b"],
])("the start command of %j", (text, command) => {
  expect(parseDockerfile(`FROM a\n${text}`).startCommand).toBe(command);
});

test("what changes nothing is warned of", () => {
  const { warnings } = parseDockerfile(
    "FROM --platform=linux/amd64 a\nEXPOSE 80\nRUN --mount=type=cache,target=/x true",
  );
  expect(warnings).toEqual([
    "line 1: --platform of FROM is ignored",
    "line 2: EXPOSE changes nothing in a template",
    "line 3: --mount of RUN is ignored",
  ]);
});

test.each([
  ["RUN true", "line 1: RUN stands before FROM"],
  ["", "there is no FROM"],
  ["FROM a\nCOPY --from=0 /x /y", "line 2: --from=0 is no stage before this one"],
  ["FROM a AS b\nFROM c\nCOPY --from=7 /x /y", "line 3: --from=7 is no stage before this one"],
  ["FROM a AS", "line 1: FROM names one image"],
  ["FROM a\nCOPY x", "line 2: COPY wants a source and a destination"],
  ["FROM a\nADD https://x.example/y /z", "line 2: ADD of https://x.example/y is not supported"],
  ["FROM a\nRUN <<EOF\ntrue\nEOF", "line 2: here-documents are not supported"],
  ["FROM a\nFOO b", "line 2: there is no instruction FOO"],
  ["FROM a b", "line 1: FROM names one image"],
  ["FROM a\n\nENV", "line 3: ENV wants NAME=VALUE"],
])("%j is refused by its line", (text, message) => {
  expect(() => parseDockerfile(text)).toThrow(message);
});

test("any text is parsed or refused", () => {
  const word = fc.oneof(
    fc.constantFrom("FROM", "RUN", "COPY", "ENV", "ARG", "\\\n", "\n", '"', "'", "[", "--from=x", "$A"),
    fc.string(),
  );
  fc.assert(
    fc.property(fc.array(word), (words) => {
      try {
        parseDockerfile(words.join(" "));
      } catch (error) {
        if (!isDomainError(error)) throw error;
      }
    }),
  );
});

test("every recipe of the catalogue can be read", () => {
  const folder = new URL("../../src/template/catalogue/", import.meta.url);
  const files = readdirSync(folder);
  expect(files.length).toBeGreaterThan(1);
  for (const file of files) expect(parseDockerfile(readFileSync(new URL(file, folder), "utf8")).warnings).toEqual([]);
});
