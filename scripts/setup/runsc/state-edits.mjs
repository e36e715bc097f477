/**
 * What is changed in gVisor so that the state of its kernel, a graph of some ten thousand objects, is written and read
 * sooner: no clock is read for each object, the tables of the writer need not grow, and its garbage is not collected
 * meanwhile. A machine that is starting or is being saved collects at five times the size of its heap, not at twice.
 */

const stats = "pkg/state/stats.go";
const kernel = "pkg/sentry/kernel/kernel.go";
const state = "pkg/state/state.go";
const save = "pkg/sentry/state/state.go";
const boot = "runsc/cmd/boot.go";
const gofer = "runsc/cmd/gofer.go";

const notTimed = "\tif !timesTypes {\n\t\treturn\n\t}\n";

const timeEdits = [
  {
    file: stats,
    from: "// init initializes statistics.\n",
    to: "// timesTypes is whether the time of each object is taken.\nconst timesTypes = false\n\n// init initializes statistics.\n",
  },
  ...[
    "func (s *Stats) start(id typeID) {\n",
    "func (s *Stats) done() {\n",
    "func (s *Stats) fini(resolve func(id typeID) string) {\n",
  ].map((from) => ({ file: stats, from, to: from + notTimed })),
  {
    file: kernel,
    from: "\tstats, err := state.Save(ctx, stateFile, k)\n",
    to: "\t_, err := state.Save(ctx, stateFile, k)\n",
  },
  { file: kernel, from: '\tlog.Infof("Kernel save stats: %s", stats.String())\n', to: "" },
  {
    file: kernel,
    from: "\tstats, err := state.Load(ctx, r, k)\n",
    to: "\t_, err := state.Load(ctx, r, k)\n",
  },
  { file: kernel, from: '\tlog.Infof("Kernel load stats: %s", stats.String())\n', to: "" },
];

const tableEdits = [
  {
    file: state,
    from: "make(map[objectID]*objectEncodeState)",
    to: "make(map[objectID]*objectEncodeState, 1<<13)",
  },
  {
    file: state,
    from: "make(map[reflect.Value]*wire.Struct)",
    to: "make(map[reflect.Value]*wire.Struct, 1<<13)",
  },
];

const garbageEdits = [
  {
    file: save,
    from: "\tw.Stop()\n\tdefer w.Start()\n",
    to: "\tw.Stop()\n\tdefer w.Start()\n\tdefer debug.SetGCPercent(debug.SetGCPercent(400))\n",
  },
  { file: save, from: '\t"fmt"\n\t"io"\n', to: '\t"fmt"\n\t"io"\n\t"runtime/debug"\n' },
  ...[boot, gofer].map((file) => ({
    file,
    from: "\t// Set traceback level\n",
    to: "\tdebug.SetGCPercent(400)\n\n\t// Set traceback level\n",
  })),
  {
    // A machine that boots. One that is restored rests first (`restore-edits.mjs`).
    file: boot,
    from: "\tl.WaitForStartSignal()\n",
    to: "\tl.WaitForStartSignal()\n\tdebug.SetGCPercent(100)\n",
  },
];

/** As those of `edits.mjs`. */
export const stateEdits = [...timeEdits, ...tableEdits, ...garbageEdits];
