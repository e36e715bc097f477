/** What is changed in gVisor so that a machine starts sooner, and a program in it. */

const patches = "pkg/sentry/platform/systrap/usertrap/usertrap_amd64.go";

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
    // The function is in the file that filters.go writes.
    file: "runsc/boot/filter/filter_precompiled.go",
    from: "\tprecompiledPrograms = programs\n",
    to: "\tprecompiledPrograms = programs\n\taddPrograms(programs)\n",
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
