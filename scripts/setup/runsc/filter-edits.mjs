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
		return Filter(opt, FilterValues()).Install()
	}
	instructions, err := compiled.RenderInstructions(FilterValues())
	if err != nil {
		return err
	}
	return seccomp.SetFilter(instructions)
}

const selfVar = "self"

// FilterValues returns what Filter takes for this process.
func FilterValues() precompiledseccomp.Values {
	values := precompiledseccomp.Values{}
	values.SetUint64(selfVar, uint64(os.Getpid()))
	return values
}

// Filter returns the filter of the options for the process of the values.
func Filter(opt Options, values precompiledseccomp.Values) *seccomp.Program {
`,
  },
  {
    file: server,
    from: "\ts := allowedSyscalls\n",
    to: `\ts := allowedSyscalls.Copy()
	s.Remove(unix.SYS_TGKILL)
	s.Set(unix.SYS_TGKILL, seccomp.PerArg{seccomp.EqualTo(values.GetUint64(selfVar))})
`,
  },
  { file: server, from: "\tprogram := &seccomp.Program{\n", to: "\treturn &seccomp.Program{\n" },
  { file: server, from: "\t}\n\n\treturn program.Install()\n}\n", to: "\t}\n}\n" },
  {
    file: server,
    from: 'import (\n\t"gvisor.dev/gvisor/pkg/log"\n\t"gvisor.dev/gvisor/pkg/seccomp"\n',
    to:
      'import (\n\t"os"\n\n\t"golang.org/x/sys/unix"\n\t"gvisor.dev/gvisor/pkg/log"\n' +
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
	instructions, err := compiledStubFilter.RenderInstructions(StubValues())
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

// StubValues returns what StubFilter takes for the stubs of this process.
func StubValues() precompiledseccomp.Values {
	values := precompiledseccomp.Values{}
	values.SetUint64(stubStartVar, uint64(stubStart))
	values.SetUint64(stubSizeVar, uint64(stubROMapEnd-stubStart))
	return values
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
