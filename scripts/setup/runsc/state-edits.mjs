/**
 * What is changed in gVisor so that the state of its kernel, a graph of some ten thousand objects, is written and read
 * sooner: no clock is read for each object, and the tables of the writer need not grow.
 */

const stats = "pkg/state/stats.go";
const kernel = "pkg/sentry/kernel/kernel.go";
const state = "pkg/state/state.go";

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

/** As those of `edits.mjs`. */
export const stateEdits = [...timeEdits, ...tableEdits];
