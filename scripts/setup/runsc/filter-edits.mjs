/**
 * What is changed in gVisor so that no filter of system calls is put together when a machine starts. `filters.go` does it
 * once, when gVisor is compiled, for gVisor's kernel, its file server and the processes in which a guest's programs run.
 */

const kernel = "runsc/boot/filter/filter_precompiled.go";
const server = "runsc/fsgofer/filter/filter.go";
const stub = "pkg/sentry/platform/systrap/subprocess_linux.go";

const serverEdits = [
  {
    file: server,
    from: "// Install installs seccomp filters.\nfunc Install(opt Options) error {\n",
    to: `// compiled is the filter of compiledFor. filters.go writes it.
var (
	compiled    precompiledseccomp.Program
	compiledFor *Options
)

// Install installs seccomp filters.
func Install(opt Options) error {
	if compiledFor == nil || opt != *compiledFor {
		return Filter(opt, uint64(os.Getpid())).Install()
	}
	values := precompiledseccomp.Values{}
	values.SetUint64(selfVar, uint64(os.Getpid()))
	instructions, err := compiled.RenderInstructions(values)
	if err != nil {
		return err
	}
	return seccomp.SetFilter(instructions)
}

const selfVar = "self"

// FilterVars returns the names of the values that FilterOf takes.
func FilterVars() []string {
	values := precompiledseccomp.Values{}
	values.SetUint64(selfVar, 0)
	return slices.Collect(maps.Keys(values))
}

// FilterOf returns the filter of the options for the process of the values.
func FilterOf(opt Options, values precompiledseccomp.Values) *seccomp.Program {
	return Filter(opt, values.GetUint64(selfVar))
}

// Filter returns the filter of the options for the process self.
func Filter(opt Options, self uint64) *seccomp.Program {
`,
  },
  {
    file: server,
    from: "\ts := allowedSyscalls\n",
    to: `\ts := allowedSyscalls.Copy()
	s.Remove(unix.SYS_TGKILL)
	s.Set(unix.SYS_TGKILL, seccomp.PerArg{seccomp.EqualTo(self)})
`,
  },
  { file: server, from: "\tprogram := &seccomp.Program{\n", to: "\treturn &seccomp.Program{\n" },
  { file: server, from: "\t}\n\n\treturn program.Install()\n}\n", to: "\t}\n}\n" },
  {
    file: server,
    from: 'import (\n\t"gvisor.dev/gvisor/pkg/log"\n\t"gvisor.dev/gvisor/pkg/seccomp"\n',
    to:
      'import (\n\t"maps"\n\t"os"\n\t"slices"\n\n\t"golang.org/x/sys/unix"\n\t"gvisor.dev/gvisor/pkg/log"\n' +
      '\t"gvisor.dev/gvisor/pkg/seccomp"\n\t"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"\n',
  },
];

const stubEdits = [
  {
    file: stub,
    from: "\treturn attachedThread(unix.CLONE_FILES|uintptr(unix.SIGCHLD), seccomp.Trap)\n",
    to: "\treturn attachedThread(unix.CLONE_FILES | uintptr(unix.SIGCHLD))\n",
  },
  {
    file: stub,
    from: "func attachedThread(flags uintptr, defaultAction seccomp.Action) (*thread, error) {\n",
    to: `func attachedThread(flags uintptr) (*thread, error) {
	values := precompiledseccomp.Values{}
	values.SetUint64(stubStartVar, uint64(stubStart))
	values.SetUint64(stubSizeVar, uint64(stubROMapEnd-stubStart))
	instructions, err := compiledStubFilter.RenderInstructions(values)
	if err != nil {
		return nil, err
	}
	return forkStub(flags, instructions)
}

const (
	stubStartVar = "stub_start"
	stubSizeVar  = "stub_size"
)

// compiledStubFilter is what StubFilter returns. filters.go writes it.
var compiledStubFilter precompiledseccomp.Program

// StubFilterVars returns the names of the values that StubFilter takes.
func StubFilterVars() []string {
	values := precompiledseccomp.Values{}
	values.SetUint64(stubStartVar, 0)
	values.SetUint64(stubSizeVar, 0)
	return slices.Collect(maps.Keys(values))
}

// StubFilter returns the filter of a stub process and all that it starts.
func StubFilter(values precompiledseccomp.Values) *seccomp.Program {
	const defaultAction = seccomp.Trap
`,
  },
  {
    file: stub,
    from: "seccomp.EqualTo(stubStart),\n",
    to: "seccomp.EqualTo(values.GetUint64(stubStartVar)),\n",
  },
  {
    file: stub,
    from: "seccomp.EqualTo(stubROMapEnd - stubStart),\n",
    to: "seccomp.EqualTo(values.GetUint64(stubSizeVar)),\n",
  },
  { file: stub, from: "\tprogram := &seccomp.Program{\n", to: "\treturn &seccomp.Program{\n" },
  {
    file: stub,
    from: "\tinstrs, _, err := program.Build()\n\tif err != nil {\n\t\treturn nil, err\n\t}\n\n\treturn forkStub(flags, instrs)\n}\n",
    to: "}\n",
  },
  {
    file: stub,
    from: '\t"fmt"\n\n',
    to: '\t"fmt"\n\t"maps"\n\t"slices"\n\n',
  },
  {
    file: stub,
    from: '\t"gvisor.dev/gvisor/pkg/seccomp"\n',
    to: '\t"gvisor.dev/gvisor/pkg/seccomp"\n\t"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"\n',
  },
];

/** As those of `edits.mjs`. */
export const filterEdits = [
  {
    // The function is in the file that filters.go writes.
    file: kernel,
    from: "\tprecompiledPrograms = programs\n",
    to: "\tprecompiledPrograms = programs\n\taddPrograms(programs)\n",
  },
  ...serverEdits,
  ...stubEdits,
];
