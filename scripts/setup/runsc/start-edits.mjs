/** What is changed in gVisor so that a machine starts sooner, and a program in it. */

const patches = "pkg/sentry/platform/systrap/usertrap/usertrap_amd64.go";
const features = "pkg/cpuid/static_amd64.go";

/** As those of `edits.mjs`. */
export const startEdits = [
  {
    // Systrap asks for the barrier of the whole host alone. To register for the other one waits for every processor, 6 to
    // 15 ms, in each process of runsc.
    file: "pkg/sentry/hostmm/membarrier.go",
    from: `	if req := uintptr(linux.MEMBARRIER_CMD_PRIVATE_EXPEDITED | linux.MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED); supported&req == req {
		if _, _, e := unix.RawSyscall(unix.SYS_MEMBARRIER, linux.MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0 /* flags */, 0 /* unused */); e != 0 {
			log.Warningf("membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) failed: %s", e.Error())
		} else {
			haveMembarrierPrivateExpedited = true
		}
	}
`,
    to: "",
  },
  {
    // In a virtual machine its host answers each question to the processor, and there are 300 of them, most of them of a
    // few leaves.
    file: features,
    from: "// Fixed converts the FeatureSet to a fixed set.\n",
    to: `// remembering asks a Function for each leaf once.
type remembering struct {
	Function
	outs map[In]Out
}

// Query implements Function.Query.
func (r remembering) Query(in In) Out {
	out, ok := r.outs[in]
	if !ok {
		out = r.Function.Query(in)
		r.outs[in] = out
	}
	return out
}

// Fixed converts the FeatureSet to a fixed set.
`,
  },
  {
    file: features,
    from: "\ts := make(Static)\n\n\t// Save all allowed top-level functions.\n",
    to: "\ts := make(Static)\n\tfs.Function = remembering{fs.Function, make(map[In]Out)}\n\n\t// Save all allowed top-level functions.\n",
  },
  {
    // Tables that each process of runsc fills have a place for each number. Linux gives its calls none above 500.
    file: "pkg/abi/sentry/syscall.go",
    from: "const MaxSyscallNum = 2000\n",
    to: "const MaxSyscallNum = 511\n",
  },
  {
    // What can be traced is listed for a session of traces, and machines have none.
    file: "runsc/boot/loader.go",
    from: "\t// Initialize seccheck points.\n\tseccheck.Initialize()\n\n",
    to: "",
  },
  {
    file: "pkg/sentry/seccheck/config.go",
    from: "func Create(conf *SessionConfig, force bool) error {\n",
    to: "func Create(conf *SessionConfig, force bool) error {\n\tInitialize()\n",
  },
  {
    file: patches,
    from: "\ttableAddr hostarch.Addr\n}\n",
    to: `	tableAddr hostarch.Addr
	// calls is how many calls could have been patched, up to callsBeforePatches. calls is protected by mu.
	calls uint32 \`state:"nosave"\`
}

// callsBeforePatches is how many calls a process makes before its calls are patched, because a patch takes as long as
// many calls, and many a process makes few.
const callsBeforePatches = 256
`,
  },
  {
    file: patches,
    from: "\tif task.Tracer() != nil {\n",
    to: `	if s.calls < callsBeforePatches {
		s.calls++
		return nil
	}
	if task.Tracer() != nil {
`,
  },
];
