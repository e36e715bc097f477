/**
 * What is changed in gVisor so that its two processes start as one program each and not as three. As it comes, each of
 * them starts itself again to be rid of capabilities, and starts a third time as a helper that unmounts /proc. Both
 * works are done in place here: capabilities are dropped by all threads, and the helper is a fork.
 */

const boot = "runsc/cmd/boot.go";
const gofer = "runsc/cmd/gofer.go";
const capabilities = "runsc/cmd/capability.go";
const umount = "runsc/cmd/umount_unsafe.go";

/** As those of `edits.mjs`. */
export const capsEdits = [
  {
    file: capabilities,
    from: "func getCaps(",
    to: `// applyCapsInPlace applies the capabilities in the spec to all threads, so that no start of the program follows. The
// inheritable and ambient ones, which matter to a start alone, are empty then.
func applyCapsInPlace(caps *specs.LinuxCapabilities) error {
	curCaps, err := capability.NewPid2(0)
	if err != nil {
		return err
	}
	if err := curCaps.Load(); err != nil {
		return err
	}
	var masks [3]uint64
	for i, which := range []capability.CapType{capability.BOUNDS, capability.EFFECTIVE, capability.PERMITTED} {
		set, err := trimCaps(getCaps(which, caps), curCaps)
		if err != nil {
			return err
		}
		for _, c := range set {
			masks[i] |= 1 << uint(c)
		}
	}
	bounds, effective, permitted := masks[0], masks[1], masks[2]
	last, err := capability.LastCap()
	if err != nil {
		return err
	}
	// Each call stops all threads. No start of a program can gain a capability here, whatever the bounding set has.
	if privileges, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err == nil && privileges == 1 {
		last = -1
	}
	for c := capability.Cap(0); c <= last; c++ {
		if bounds&(1<<uint(c)) != 0 || !curCaps.Get(capability.BOUNDS, c) {
			continue
		}
		if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c), 0); errno != 0 {
			return fmt.Errorf("dropping %v from the bounding set: %w", c, errno)
		}
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0); errno != 0 {
		return fmt.Errorf("clearing the ambient set: %w", errno)
	}
	if errno := capsetAllThreads(effective, permitted); errno != 0 {
		return fmt.Errorf("setting capabilities: %w", errno)
	}
	log.Infof("Capabilities applied in place: %#x", permitted)
	return nil
}

func getCaps(`,
  },
  {
    file: capabilities,
    from: 'import (\n\t"fmt"\n\n\t"github.com/moby/sys/capability"\n\tspecs "github.com/opencontainers/runtime-spec/specs-go"\n',
    to:
      'import (\n\t"fmt"\n\t"syscall"\n\n\t"github.com/moby/sys/capability"\n' +
      '\tspecs "github.com/opencontainers/runtime-spec/specs-go"\n\t"golang.org/x/sys/unix"\n',
  },
  {
    file: umount,
    from: "// Umount implements subcommands.Command for",
    to: `// capsetAllThreads gives all threads the same capabilities, and none to inherit.
func capsetAllThreads(effective, permitted uint64) syscall.Errno {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(effective), Permitted: uint32(permitted)},
		{Effective: uint32(effective >> 32), Permitted: uint32(permitted >> 32)},
	}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0)
	runtime.KeepAlive(&header)
	runtime.KeepAlive(&data)
	return errno
}

// forkProcUmounter forks a process that keeps this one's capabilities, and unmounts /proc when umountProc tells it to
// through the returned descriptor. It ends by itself when this process ends.
func forkProcUmounter() int {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		util.Fatalf("error creating a pipe: %v", err)
	}
	path := append([]byte("/proc"), 0)
	order := make([]byte, 1)
	errno := forkUmounter(uintptr(pipe[0]), uintptr(pipe[1]), &path[0], &order[0])
	runtime.KeepAlive(path)
	runtime.KeepAlive(order)
	if errno != 0 {
		util.Fatalf("error forking the umounter: %v", errno)
	}
	unix.Close(pipe[0])
	return pipe[1]
}

// forkUmounter forks. The child has one thread and the memory of a moment in which other threads may have held locks of
// the runtime, so it makes system calls and nothing else.
//
//go:nosplit
//go:norace
func forkUmounter(r, w uintptr, path, order *byte) syscall.Errno {
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if pid != 0 || errno != 0 {
		return errno
	}
	syscall.RawSyscall(unix.SYS_CLOSE, w, 0, 0)
	n, _, errno := syscall.RawSyscall(unix.SYS_READ, r, uintptr(unsafe.Pointer(order)), 1)
	for errno == syscall.EINTR {
		n, _, errno = syscall.RawSyscall(unix.SYS_READ, r, uintptr(unsafe.Pointer(order)), 1)
	}
	status := uintptr(1)
	if n == 1 && errno == 0 {
		if _, _, errno = syscall.RawSyscall(unix.SYS_UMOUNT2, uintptr(unsafe.Pointer(path)), uintptr(linux.MNT_DETACH), 0); errno == 0 {
			status = 0
		}
	}
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, status, 0, 0)
	}
}

// Umount implements subcommands.Command for`,
  },
  { file: umount, from: '\t"os"\n\t"syscall"\n', to: '\t"os"\n\t"runtime"\n\t"syscall"\n' },
  {
    file: boot,
    from: `			cmd, w := execProcUmounter()
			defer cmd.Wait()
			defer w.Close()
			if b.procMountSyncFD != -1 {
				panic("procMountSyncFD is set")
			}
			b.procMountSyncFD = int(w.Fd())
			argOverride["proc-mount-sync-fd"] = strconv.Itoa(b.procMountSyncFD)

			// Clear FD_CLOEXEC. Regardless of b.applyCaps, this process will be
			// re-executed. procMountSyncFD should remain open.
			if _, _, errno := unix.RawSyscall(unix.SYS_FCNTL, w.Fd(), unix.F_SETFD, 0); errno != 0 {
				util.Fatalf("error clearing CLOEXEC: %v", errno)
			}
`,
    to: `			if b.procMountSyncFD != -1 {
				panic("procMountSyncFD is set")
			}
			b.procMountSyncFD = forkProcUmounter()
			argOverride["proc-mount-sync-fd"] = strconv.Itoa(b.procMountSyncFD)

			// Clear FD_CLOEXEC, for a process that starts itself again.
			if _, _, errno := unix.RawSyscall(unix.SYS_FCNTL, uintptr(b.procMountSyncFD), unix.F_SETFD, 0); errno != 0 {
				util.Fatalf("error clearing CLOEXEC: %v", errno)
			}
`,
  },
  {
    file: boot,
    from: `		argOverride["apply-caps"] = "false"

		// Remove the args that have already been done before calling self.
		args := prepareArgs(b.Name(), f, argOverride)

		// Note that we've already read the spec from the spec FD, and
		// we will read it again after the exec call. This works
		// because the ReadSpecFromFile function seeks to the beginning
		// of the file before reading.
		util.Fatalf("setCapsAndCallSelf(%v, %v): %v", args, caps, setCapsAndCallSelf(args, caps))

		// This prevents the specFile finalizer from running and closed
		// the specFD, which we have passed to ourselves when
		// re-execing.
		runtime.KeepAlive(specFile)
		panic("unreachable")
	}
`,
    to: `		if err := applyCapsInPlace(caps); err != nil {
			util.Fatalf("applyCapsInPlace(%v): %v", caps, err)
		}
	}
`,
  },
  {
    file: boot,
    from: `// execProcUmounter execute a child process that umounts /proc when the
// returned pipe is closed.
func execProcUmounter() (*exec.Cmd, *os.File) {
	r, w, err := os.Pipe()
	if err != nil {
		util.Fatalf("error creating a pipe: %v", err)
	}
	defer r.Close()

	cmd := exec.Command(specutils.ExePath)
	cmd.Args = append(cmd.Args, "umount", "--sync-fd=3", "/proc")
	cmd.ExtraFiles = append(cmd.ExtraFiles, r)
	cmd.Stdin = os.Stdin
	cmd.Stdout = os.Stdout
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		util.Fatalf("error executing umounter: %v", err)
	}
	return cmd, w
}

`,
    to: "",
  },
  { file: boot, from: "// execProcUmounter() to umount", to: "// forkProcUmounter() to umount" },
  { file: boot, from: '\t"os/exec"\n', to: "" },
  {
    file: gofer,
    from: `			cleanupUnmounter := g.syncFDs.spawnProcUnmounter()
			defer cleanupUnmounter()
`,
    to: "\t\t\tg.syncFDs.spawnProcUnmounter()\n",
  },
  {
    file: gofer,
    from: `		overrides := g.syncFDs.flags()
		overrides["apply-caps"] = "false"
		overrides["setup-root"] = "false"
		args := prepareArgs(g.Name(), f, overrides)
		capsToApply`,
    to: "\t\tcapsToApply",
  },
  {
    file: gofer,
    from: `		util.Fatalf("setCapsAndCallSelf(%v, %v): %v", args, capsToApply, setCapsAndCallSelf(args, capsToApply))
		panic("unreachable")
	}

	// This can't happen until after setCapsAndCallSelf(), since otherwise the
	// re-executed gofer may reuse goferToHostRPCFD's file descriptor for an
	// unrelated file.
	goferToHostRPC.Close()
`,
    to: `		if err := applyCapsInPlace(capsToApply); err != nil {
			util.Fatalf("applyCapsInPlace(%v): %v", capsToApply, err)
		}
	}

	goferToHostRPC.Close()
`,
  },
  {
    file: gofer,
    from: `// It returns a function to wait on the proc unmounter process, which
// should be called (via defer) in case of errors in order to clean up the
// unmounter process properly.
// When procfs is no longer needed, \`unmountProcfs\` should be called.
func (g *goferSyncFDs) spawnProcUnmounter() func() {
	if g.procMountFD != -1 {
		util.Fatalf("procMountFD is set")
	}
	// /proc is umounted from a forked process, because the
	// current one may re-execute itself without capabilities.
	cmd, w := execProcUmounter()
	// Clear FD_CLOEXEC. This process may be re-executed. procMountFD
	// should remain open.
	if _, _, errno := unix.RawSyscall(unix.SYS_FCNTL, w.Fd(), unix.F_SETFD, 0); errno != 0 {
		util.Fatalf("error clearing CLOEXEC: %v", errno)
	}
	g.procMountFD = int(w.Fd())
	return func() {
		g.procMountFD = -1
		w.Close()
		cmd.Wait()
	}
}
`,
    to: `// When procfs is no longer needed, \`unmountProcfs\` should be called.
func (g *goferSyncFDs) spawnProcUnmounter() {
	if g.procMountFD != -1 {
		util.Fatalf("procMountFD is set")
	}
	g.procMountFD = forkProcUmounter()
}
`,
  },
];
