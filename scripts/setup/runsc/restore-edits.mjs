/**
 * What is changed in gVisor so that a restore costs what the memory of a machine is used for, not what it has. With
 * `restore --background` a page is read when it is first used, and never ahead, from the pages files of several
 * checkpoints (`checkpoint-edits.mjs`).
 */

const saves = "pkg/sentry/pgalloc/save_restore.go";
const allocator = "pkg/sentry/pgalloc/pgalloc.go";
const reader = "pkg/sentry/state/stateio/fdreader.go";
const pagesFile = "pkg/sentry/state/stateio/pagesfile.go";
const restore = "runsc/boot/restore.go";
const gofer = "runsc/cmd/gofer.go";

/** An offset among all pages files: the file's index above, the offset in the file below. */
const readerEdits = [
  {
    file: reader,
    from: "type fdRead struct {\n",
    to: `// PagesFileIndexShift is where the index of a pages file begins in an offset.
const PagesFileIndexShift = 48

// at returns the file that an offset is in, and the offset there.
func (r *FDReader) at(off int64) (int32, int64) {
	if index := off >> PagesFileIndexShift; index != 0 {
		return r.more[index-1], off & (1<<PagesFileIndexShift - 1)
	}
	return r.fd, off
}

type fdRead struct {
`,
  },
  {
    file: reader,
    from: "\tfd           int32\n\tmaxReadBytes uint32\n",
    to: "\tfd           int32\n\tmore         []int32\n\tmaxReadBytes uint32\n",
  },
  {
    file: reader,
    from: "\tr.q.Destroy()\n\treturn unix.Close(int(r.fd))\n",
    to: "\tr.q.Destroy()\n\tfor _, fd := range r.more {\n\t\tunix.Close(int(fd))\n\t}\n\treturn unix.Close(int(r.fd))\n",
  },
  {
    file: reader,
    from: "\taio.Read(r.q, uint64(id), r.fd, off, dstMap)\n",
    to: "\tfd, at := r.at(off)\n\taio.Read(r.q, uint64(id), fd, at, dstMap)\n",
  },
  {
    file: reader,
    from: "\taio.Readv(r.q, uint64(id), r.fd, off, dstMaps)\n",
    to: "\tfd, at := r.at(off)\n\taio.Readv(r.q, uint64(id), fd, at, dstMaps)\n",
  },
  {
    file: reader,
    from: "\t\t\t\tif inflight.dst.Mapping != nil {\n\t\t\t\t\taio.Read(r.q, aioC.ID, r.fd, inflight.off, inflight.dst.Mapping)\n\t\t\t\t} else {\n\t\t\t\t\taio.Readv(r.q, aioC.ID, r.fd, inflight.off, inflight.dst.Iovecs)\n",
    to: "\t\t\t\tfd, at := r.at(inflight.off)\n\t\t\t\tif inflight.dst.Mapping != nil {\n\t\t\t\t\taio.Read(r.q, aioC.ID, fd, at, inflight.dst.Mapping)\n\t\t\t\t} else {\n\t\t\t\t\taio.Readv(r.q, aioC.ID, fd, at, inflight.dst.Iovecs)\n",
  },
  {
    file: pagesFile,
    from: "func NewPagesFileFDReaderDefault(fd int32) *FDReader {\n\treturn NewPagesFileFDReader(fd, pagesFileFDDefaultMaxIOBytes, pagesFileFDDefaultMaxParallel)\n",
    to: "func NewPagesFileFDReaderDefault(fd int32, more ...int32) *FDReader {\n\tr := NewPagesFileFDReader(fd, pagesFileFDDefaultMaxIOBytes, pagesFileFDDefaultMaxParallel)\n\tr.more = more\n\treturn r\n",
  },
];

const loadEdits = [
  {
    file: "pkg/sentry/kernel/kernel_restore.go",
    from: "mainMF *pgalloc.MemoryFile, timeline *timing.Timeline) *AsyncMFLoader {\n",
    to: "mainMF *pgalloc.MemoryFile, onDemand bool, timeline *timing.Timeline) *AsyncMFLoader {\n",
  },
  {
    file: "pkg/sentry/kernel/kernel_restore.go",
    from: "\tgo mfl.backgroundGoroutine(pagesMetadata, pagesFile, mainMF, timeline)\n",
    to: `	if onDemand {
		// A load for waiters has no end, and a Timer looks every millisecond for the end of its timelines.
		timeline.End()
		timeline = nil
	}
	go mfl.backgroundGoroutine(pagesMetadata, pagesFile, mainMF, onDemand, timeline)
`,
  },
  {
    file: "pkg/sentry/kernel/kernel_restore.go",
    from: "pagesFile stateio.AsyncReader, mainMF *pgalloc.MemoryFile, timeline *timing.Timeline) {\n",
    to: "pagesFile stateio.AsyncReader, mainMF *pgalloc.MemoryFile, onDemand bool, timeline *timing.Timeline) {\n",
  },
  {
    file: "pkg/sentry/kernel/kernel_restore.go",
    from: "\t}, timeline) // transfers ownership of pagesFile\n",
    to: "\t}, onDemand, timeline) // transfers ownership of pagesFile\n",
  },
  {
    file: saves,
    from: "doneCallback func(error), timeline *timing.Timeline) (*AsyncPagesFileLoad, error) {\n",
    to: "doneCallback func(error), onDemand bool, timeline *timing.Timeline) (*AsyncPagesFileLoad, error) {\n",
  },
  {
    file: saves,
    from: "\t\ttimeStartWaiters: math.MaxInt64,\n\t\ttimeline:         timeline.Fork(",
    to: "\t\ttimeStartWaiters: math.MaxInt64,\n\t\tonDemand:         onDemand,\n\t\ttimeline:         timeline.Fork(",
  },
  {
    file: saves,
    from: "\t// ar is the pages file. ar is immutable.\n\tar stateio.AsyncReader\n",
    to: "\t// onDemand is true if pages are loaded for waiters alone. onDemand is immutable.\n\tonDemand bool\n\n\t// ar is the pages file. ar is immutable.\n\tar stateio.AsyncReader\n",
  },
  {
    file: saves,
    from: "\t\t// Fill remaining queue with reads for pages with no waiters.\n\t\tif apfl.canEnqueue() {\n",
    to: "\t\t// Fill remaining queue with reads for pages with no waiters.\n\t\tif !apfl.onDemand && apfl.canEnqueue() {\n",
  },
  {
    file: saves,
    from: "\t\t\tif ev&aplLFDone != 0 {\n\t\t\t\t// Successfully completed all loading for all MemoryFiles.\n",
    to: `			if ev&aplLFDone != 0 {
				if apfl.onDemand {
					apfl.amflsMu.Lock()
					isLoaded := apfl.amfls.Empty()
					apfl.amflsMu.Unlock()
					if !isLoaded {
						// Waiters notify of aplLFPending.
						apfl.lfStatus.WaitFor(aplLFPending)
						continue
					}
				}
				// Successfully completed all loading for all MemoryFiles.
`,
  },
  {
    file: saves,
    from: "\t\tapfl.numWaiters++\n\t\tapfl.totalWaiters++\n\t}\n\tapfl.mu.Unlock()\n\tif pending {\n",
    to: "\t\tapfl.numWaiters++\n\t\tapfl.totalWaiters++\n\t}\n\tapfl.mu.Unlock()\n\tif pending && apfl.onDemand {\n\t\tapfl.lfStatus.Notify(aplLFPending)\n\t}\n\tif pending {\n",
  },
  {
    // What is given back by madvise() must not come back from the pages file.
    file: allocator,
    from: "\tf.decommitOrManuallyZero(fr)\n\n\tf.mu.Lock()\n\tdefer f.mu.Unlock()\n\tf.memAcct.MutateFullRange(fr, func(maseg memAcctIterator) bool {\n",
    to: '\tif amfl := f.asyncPageLoad.Load(); amfl != nil {\n\t\tif err := amfl.awaitLoad(fr); err != nil {\n\t\t\tlog.Warningf("Loading pages %v to decommit them failed: %v", fr, err)\n\t\t}\n\t}\n\tf.decommitOrManuallyZero(fr)\n\n\tf.mu.Lock()\n\tdefer f.mu.Unlock()\n\tf.memAcct.MutateFullRange(fr, func(maseg memAcctIterator) bool {\n',
  },
  {
    file: "pkg/sentry/mm/address_space.go",
    from: "ok && mf.IsAsyncLoading() {\n",
    to: "ok && mf.HasUnloaded(pseg.fileRange()) {\n",
  },
  { file: "pkg/sentry/mm/address_space.go", from: "\t\tsetMapUnit(32 << 20)\n", to: "\t\tsetMapUnit(64 << 10)\n" },
  {
    // Pages may be loaded for as long as the sandbox lives.
    file: restore,
    from: '\t\tif r.asyncMFLoader != nil {\n\t\t\tif err := r.asyncMFLoader.Wait(); err != nil {\n\t\t\t\tlog.Warningf("Killing the sandbox after MemoryFile page loading failed: %v", err)\n\t\t\t\tl.k.Kill(linux.WaitStatusTerminationSignal(linux.SIGKILL))\n\t\t\t\treturn\n\t\t\t}\n\t\t}\n',
    to: '\t\tif r.asyncMFLoader != nil && r.background {\n\t\t\tgo func() {\n\t\t\t\tif err := r.asyncMFLoader.Wait(); err != nil {\n\t\t\t\t\tlog.Warningf("Killing the sandbox after MemoryFile page loading failed: %v", err)\n\t\t\t\t\tl.k.Kill(linux.WaitStatusTerminationSignal(linux.SIGKILL))\n\t\t\t\t}\n\t\t\t}()\n\t\t} else if r.asyncMFLoader != nil {\n\t\t\tif err := r.asyncMFLoader.Wait(); err != nil {\n\t\t\t\tlog.Warningf("Killing the sandbox after MemoryFile page loading failed: %v", err)\n\t\t\t\tl.k.Kill(linux.WaitStatusTerminationSignal(linux.SIGKILL))\n\t\t\t\treturn\n\t\t\t}\n\t\t}\n',
  },
];

/** What a start allocated and needs no more goes back to the host once the machine is at rest. */
const restEdits = [
  {
    file: restore,
    from: '\t\tlog.Infof("Restore successful")\n',
    to: '\t\tlog.Infof("Restore successful")\n\n\t\ttime2.Sleep(time2.Second)\n\t\truntimedebug.FreeOSMemory()\n',
  },
  { file: restore, from: '\ttime2 "time"\n', to: '\truntimedebug "runtime/debug"\n\ttime2 "time"\n' },
  {
    file: gofer,
    from: "\tserver.Wait()\n",
    to: "\tgo func() {\n\t\ttime.Sleep(time.Second)\n\t\tdebug.FreeOSMemory()\n\t}()\n\tserver.Wait()\n",
  },
  { file: gofer, from: '\t"strings"\n', to: '\t"strings"\n\t"time"\n' },
];

/** As those of `edits.mjs`. */
export const restoreEdits = [...readerEdits, ...loadEdits, ...restEdits];
