/**
 * Cells that every client of the code interpreter runs, each with what it must see: one table for npm's SDK and for both
 * faces of PyPI's. A row names the group of E2B's own tests that it stands for.
 */
import { expect } from "vitest";

export interface Cell {
  readonly row: string;
  readonly code: string;
  readonly language?: string;
  readonly envs?: Readonly<Record<string, string>>;
  /** Matched with what a client saw, in the form of {@link Seen}; what is not named may be anything. */
  readonly expected: object;
}

/** What a client saw of an execution, in a form that all clients can print. */
export interface Seen {
  readonly text: string | null;
  readonly count: number | null;
  readonly stdout: readonly string[];
  readonly stderr: readonly string[];
  readonly error: { readonly name: string; readonly value: string; readonly traceback: string } | null;
  /** The fields of each result; of images only how they begin, because the rest is theirs. */
  readonly results: readonly Readonly<Record<string, unknown>>[];
}

/** How many characters of an image are compared. */
export const imageCharacters = 5;
const png = "iVBOR";
const jpeg = "/9j/4";

const plot = "import matplotlib.pyplot as plt\n";
const chart = (code: string, expected: object) => ({
  code: `${plot}import numpy as np, datetime\n${code}\nplt.show()`,
  expected: { error: null, stderr: [], results: [{ png, chart: expected, extra: {}, is_main_result: false }] },
});
const image = "from PIL import Image\nimage = Image.new('RGB', (4, 4), 'red')\n";

const languages: readonly Cell[] = [
  {
    row: "language: javascript",
    language: "js",
    code: "console.log('Hello, World!')",
    expected: { stdout: ["Hello, World!\n"], results: [] },
  },
  {
    row: "language: ES import",
    language: "js",
    code: "import url from 'url'\nurl.fileURLToPath('file:///a')",
    expected: { text: "/a", error: null },
  },
  {
    row: "language: top-level await",
    language: "js",
    code: "async function f() { return 'Hello, World!' }\nawait f()",
    expected: { text: "Hello, World!", error: null },
  },
  {
    row: "language: typescript",
    language: "ts",
    code: "enum A { B = 'Hello, World!' }\nconst said: string = A.B\nsaid",
    expected: { text: "Hello, World!", error: null },
  },
];

const folders: readonly Cell[] = [
  { row: "cwd: python", code: "import os; print(os.getcwd())", expected: { stdout: ["/home/user\n"] } },
  { row: "cwd: js", language: "js", code: "process.cwd()", expected: { text: "/home/user" } },
  { row: "cwd: ts", language: "ts", code: "process.cwd() as string", expected: { text: "/home/user" } },
  { row: "cwd: bash", language: "bash", code: "pwd", expected: { stdout: ["/home/user\n"] } },
];

type Reader = readonly [language: string, code: string, plain: string];

/** How each language prints the variables FOO and BAR, and what it prints when only the sandbox has FOO. */
const readers: readonly Reader[] = [
  ["python", "import os; print(os.environ.get('FOO'), os.environ.get('BAR'))", "sandbox None"],
  ["js", "console.log(process.env.FOO, process.env.BAR)", "sandbox undefined"],
  ["ts", "console.log(process.env.FOO as string, process.env.BAR)", "sandbox undefined"],
  ["bash", 'echo "$FOO" "$BAR"', "sandbox "],
];
const quoted = `it's "quoted"\n$BAR \\n end`;
const environmentOf = ([language, code, plain]: Reader): readonly Cell[] => [
  { row: `environment: ${language}, the sandbox's`, language, code, expected: { stdout: joined(`${plain}\n`) } },
  {
    row: `environment: ${language}, the execution's`,
    language,
    code,
    envs: { FOO: "execution", BAR: quoted },
    expected: { error: null, stdout: joined(`execution ${quoted}\n`) },
  },
  { row: `environment: ${language}, as before`, language, code, expected: { stdout: joined(`${plain}\n`) } },
];

/** A list of texts that make one text; output may come in pieces. */
function joined(text: string) {
  return expect.toSatisfy((parts: readonly string[]) => parts.join("") === text);
}

const charts: readonly Cell[] = [
  {
    row: "chart: bar",
    ...chart("plt.bar(['A', 'B'], [10, 5])\nplt.title('Books')\nplt.xlabel('Author')\nplt.ylabel('Sold [pcs]')", {
      type: "bar",
      title: "Books",
      x_label: "Author",
      x_unit: null,
      y_label: "Sold [pcs]",
      y_unit: "pcs",
      elements: [
        { label: "A", value: 10, group: "Group 0" },
        { label: "B", value: 5, group: "Group 0" },
      ],
    }),
  },
  {
    row: "chart: box and whisker",
    ...chart("plt.boxplot([[1, 2, 3, 4, 5], [1, 3, 5, 7, 9]], tick_labels=['a', 'b'], patch_artist=True)", {
      type: "box_and_whisker",
      title: null,
      elements: [
        { label: "a", min: 1, first_quartile: 2, median: 3, third_quartile: 4, max: 5, outliers: [] },
        { label: "b", min: 1, first_quartile: 3, median: 5, third_quartile: 7, max: 9, outliers: [] },
      ],
    }),
  },
  {
    row: "chart: line with dates",
    ...chart("plt.plot([datetime.date(2024, 9, 1), datetime.date(2024, 9, 2)], [1.5, 2], label='y')", {
      type: "line",
      x_scale: "datetime",
      y_scale: "linear",
      x_ticks: expect.arrayContaining([expect.stringMatching(/^2024-09-0/)]),
      elements: [
        {
          label: "y",
          points: [
            [expect.stringMatching(/^2024-09-01/), 1.5],
            [expect.stringMatching(/^2024-09-02/), 2],
          ],
        },
      ],
    }),
  },
  {
    row: "chart: logarithmic scale",
    ...chart("plt.plot([1, 10, 100], [1, 2, 3])\nplt.xscale('log')", {
      type: "line",
      x_scale: "log",
      x_ticks: expect.arrayContaining([10]),
      elements: [{ label: "Line 0" }],
    }),
  },
  {
    row: "chart: pie",
    ...chart("plt.pie([1, 3], labels=['x', 'y'])\nplt.title('Parts')", {
      type: "pie",
      title: "Parts",
      elements: [
        { label: "x", angle: 90, radius: 1 },
        { label: "y", angle: 270, radius: 1 },
      ],
    }),
  },
  {
    row: "chart: scatter",
    ...chart("plt.scatter([1, 2], [3, 4], label='s')\nplt.xlabel('Time (s)')", {
      type: "scatter",
      x_label: "Time (s)",
      x_unit: "s",
      y_label: null,
      elements: [
        {
          label: "s",
          points: [
            [1, 3],
            [2, 4],
          ],
        },
      ],
    }),
  },
  {
    row: "chart: several axes",
    ...chart("f, (a, b) = plt.subplots(1, 2)\nf.suptitle('Both')\na.plot([1, 2])\nb.bar(['x'], [1])", {
      type: "superchart",
      title: "Both",
      elements: [{ type: "line" }, { type: "bar" }],
    }),
  },
  {
    row: "chart: unknown",
    ...chart("plt.figure().add_subplot().imshow(np.zeros((2, 2)))", { type: "unknown", title: null, elements: [] }),
  },
  {
    row: "chart: datetime scale",
    ...chart("plt.scatter([datetime.datetime(2024, 9, 1, h) for h in (1, 2)], [1, 2])", {
      type: "scatter",
      x_scale: "datetime",
      x_tick_labels: expect.arrayContaining([expect.any(String)]),
    }),
  },
  {
    row: "chart: categorical scale",
    ...chart("plt.plot(['a', 'b'], [1, 2])", {
      type: "line",
      x_scale: "categorical",
      x_ticks: [0, 1],
      x_tick_labels: ["a", "b"],
    }),
  },
  // Of an empty chart, clients of JavaScript have an empty object, and clients of Python none.
  { row: "chart: nothing drawn", code: `${plot}plt.figure()\nplt.show()`, expected: { error: null, stderr: [] } },
];

/** R and Java. */
const fullCells: readonly Cell[] = [
  {
    row: "language: r",
    language: "r",
    code: 'x <- "Hello, World!"; print(x)',
    expected: { stdout: joined('[1] "Hello, World!"\n'), text: null },
  },
  {
    row: "language: java",
    language: "java",
    code: 'System.out.println("Hello, World!");',
    expected: { stdout: ["Hello, World!", "\n"] },
  },
  { row: "cwd: r", language: "r", code: "getwd()", expected: { results: [{ text: '[1] "/home/user"' }] } },
  {
    row: "cwd: java",
    language: "java",
    code: 'System.getProperty("user.dir")',
    expected: { text: "/home/user" },
  },
  { row: "plot: r", language: "r", code: "plot(1:3)", expected: { results: [{ png, is_main_result: false }] } },
  ...(
    [
      ["r", "cat(Sys.getenv('FOO'), Sys.getenv('BAR')); cat('\\n')", "sandbox "],
      ["java", 'System.out.println(System.getProperty("FOO") + " " + System.getProperty("BAR", ""));', "sandbox "],
    ] as const
  ).flatMap(environmentOf),
  {
    row: "packages of the full variant",
    code: `import aiohttp, bs4, bokeh, gensim, imageio, joblib, librosa, nltk, numba, cv2, openpyxl, plotly, pytest, docx, pytz
import requests, skimage, sklearn, scipy, seaborn, soundfile, spacy, textblob, tornado, urllib3, xarray, xlrd, sympy
sklearn.__version__`,
    expected: { text: "1.6.1", error: null },
  },
];

/** The cells of a variant of the template. */
export const cellsOf = (variant: string | undefined) => (variant === "full" ? [...cells, ...fullCells] : cells);

const cells: readonly Cell[] = [
  { row: "basics", code: "x =1; x", expected: { text: "1", error: null } },
  { row: "shell escape", code: "!pwd", expected: { stdout: ["/home/user\n"], error: null } },
  { row: "one event for one print", code: "print('hello')", expected: { stdout: ["hello\n"], stderr: [] } },
  {
    row: "one event for one print to stderr",
    code: "import sys; print('hello', file=sys.stderr)",
    expected: { stdout: [], stderr: ["hello\n"] },
  },
  {
    row: "an indented plot and a value are two results",
    code: `
        import matplotlib.pyplot as plt
        plt.plot([1, 2])
        plt.show()
        3`,
    expected: { text: "3", results: [{ png }, { text: "3", is_main_result: true }] },
  },
  {
    row: "display of a plot",
    code: `${plot}plt.plot([1, 2])\nplt.show()`,
    expected: { text: null, results: [{ png, text: "<Figure size 640x480 with 1 Axes>", extra: {} }] },
  },
  {
    row: "display of one MIME type",
    code: "from IPython.display import display\ndisplay({'text/latex': '$x$'}, raw=True)",
    expected: { results: [{ formats: ["latex"], latex: "$x$", extra: {} }] },
  },
  {
    row: "data frame",
    code: "import pandas as pd\npd.DataFrame({'a': [1, None], 't': pd.to_datetime(['2020-01-01', None])})",
    expected: {
      results: [{ data: { a: [1, null], t: ["2020-01-01T00:00:00", "NaT"] }, html: expect.stringContaining("<table") }],
    },
  },
  { row: "image: show", code: `${image}image.show()`, expected: { results: [{ png, jpeg, is_main_result: false }] } },
  { row: "image: value", code: `${image}image`, expected: { results: [{ png, jpeg, is_main_result: true }] } },
  { row: "image: save", code: `${image}image.save('test.png')`, expected: { results: [{ png, jpeg }] } },
  ...charts,
  ...languages,
  ...folders,
  ...readers.flatMap(environmentOf),
  {
    row: "text that is not ASCII",
    code: "print('h\u00e9\u2028\\x85\u65e5\u672c\u{1f600}' * 3000, end='')\n'\u65e5\u672c'",
    expected: {
      text: "\u65e5\u672c",
      stdout: joined("h\u00e9\u2028\u0085\u65e5\u672c\u{1f600}".repeat(3000)),
    },
  },
  {
    row: "error",
    code: "1/0",
    expected: {
      error: {
        name: "ZeroDivisionError",
        value: "division by zero",
        traceback: expect.stringMatching(
          /^-{75}ZeroDivisionError {2,}Traceback .*Cell In\[\d+\], line 1\n----> 1 1\/0\n/,
        ),
      },
    },
  },
  { row: "quotes around a text", code: `"a'b"`, expected: { text: "a'b" } },
  {
    row: "JSON",
    code: "[1, {2: None}, float('nan')]",
    expected: { text: "[1, {2: None}, nan]", results: [{ json: [1, { 2: null }, null] }] },
  },
  { row: "no input", code: "input()", expected: { error: { name: "StdinNotImplementedError" } } },
];
