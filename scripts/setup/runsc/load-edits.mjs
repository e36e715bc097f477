/**
 * What is changed in gVisor so that pages are loaded for whoever uses them, and never ahead: for as long as the machine
 * lives, and by the thread that waits. To hand a read of 64 KiB to another thread, as gVisor does, takes longer than to
 * read it from what the host has in memory.
 */

const saves = "pkg/sentry/pgalloc/save_restore.go";
const allocator = "pkg/sentry/pgalloc/pgalloc.go";
const restore = "runsc/boot/restore.go";
const memory = "pkg/sentry/mm/pma.go";
const inOut = "pkg/sentry/mm/io.go";

const canEnqueue = "func (apfl *AsyncPagesFileLoad) canEnqueue() bool {\n";

const loadNow = `// loadNow reads the pages of fr that are not loaded in the calling goroutine: it takes less than handing them to others.
func (amfl *asyncMemoryFileLoad) loadNow(fr memmap.FileRange) error {
	apfl := amfl.pf
	for {
		apfl.mu.Lock()
		ulseg := amfl.unloaded.LowerBoundSegment(fr.Start)
		if !ulseg.Ok() || ulseg.Start() >= fr.End {
			apfl.mu.Unlock()
			return nil
		}
		if err := apfl.err(); err != nil {
			apfl.mu.Unlock()
			return err
		}
		if ulseg.ValuePtr().started {
			amfl.awaitOther(ulseg)
			continue
		}
		part := ulseg.Range().Intersect(fr)
		part.End = min(part.End, part.Start+apfl.maxReadBytes)
		ulseg = amfl.unloaded.Isolate(ulseg, part)
		ulseg.ValuePtr().started = true
		off := int64(ulseg.ValuePtr().off)
		apfl.mu.Unlock()

		var err error
		amfl.f.forEachMappingSlice(part, func(bs []byte) {
			if err == nil {
				err = apfl.ar.(stateio.SyncReader).ReadNow(off, bs)
				off += int64(len(bs))
			}
		})
		amfl.endLoad(part, err)
	}
}

// awaitOther waits for the goroutine that reads these pages.
//
// Preconditions: amfl.pf.mu must be locked; it is unlocked.
func (amfl *asyncMemoryFileLoad) awaitOther(ulseg aplUnloadedIterator) {
	w := aplWaiterPool.Get().(*aplWaiter)
	defer aplWaiterPool.Put(w)
	w.pending = ulseg.Range().Length()
	ulseg.ValuePtr().waiters = append(ulseg.ValuePtr().waiters, w)
	amfl.pf.mu.Unlock()
	w.wakeup.WaitAndAckAll()
}

// endLoad ends a load of exactly fr by loadNow.
func (amfl *asyncMemoryFileLoad) endLoad(fr memmap.FileRange, err error) {
	apfl := amfl.pf
	apfl.amflsMu.Lock()
	apfl.mu.Lock()
	ulseg := amfl.unloaded.FindSegment(fr.Start)
	waiters := ulseg.ValuePtr().waiters
	if err != nil {
		log.Warningf("Loading MemoryFile(%p) pages %v failed: %v", amfl.f, fr, err)
		apfl.errVal.Store(linuxerr.EIO)
		ulseg.ValuePtr().started = false
		ulseg.ValuePtr().waiters = nil
	} else {
		amfl.unloaded.Remove(ulseg)
		apfl.bytesLoaded += fr.Length()
	}
	isEnd := err != nil
	if amfl.lfDone && amfl.unloaded.IsEmpty() {
		amfl.minUnloaded.Store(math.MaxUint64)
		apfl.amfls.Remove(amfl)
		amfl.f.asyncPageLoad.Store(nil)
		amfl.timeline.End()
		isEnd = true
	} else if amfl.lfDone {
		amfl.minUnloaded.Store(amfl.unloaded.FirstSegment().Start())
	}
	apfl.mu.Unlock()
	apfl.amflsMu.Unlock()
	for _, w := range waiters {
		w.wakeup.Notify(1)
	}
	if isEnd {
		apfl.lfStatus.Notify(aplLFPending)
	}
}
`;

/** Only the pages that are used are loaded for gVisor's own reads and writes, and for copies after a fork. */
const useEdits = [
  {
    file: allocator,
    from: `	if amfl := f.asyncPageLoad.Load(); amfl != nil {
		if err := amfl.awaitLoad(fr); err != nil {
			return safemem.BlockSeq{}, err
		}
	}
`,
    to: `	if err := f.AwaitLoad(fr); err != nil {
		return safemem.BlockSeq{}, err
	}
	return f.MapUnloaded(fr)
}

// AwaitLoad blocks until all pages in fr are loaded.
func (f *MemoryFile) AwaitLoad(fr memmap.FileRange) error {
	if amfl := f.asyncPageLoad.Load(); amfl != nil {
		return amfl.awaitLoad(fr)
	}
	return nil
}

// MapUnloaded is like MapInternal, and the caller loads pages before it uses them.
func (f *MemoryFile) MapUnloaded(fr memmap.FileRange) (safemem.BlockSeq, error) {
`,
  },
  {
    file: memory,
    from: "\t\tif needInternalMappings && pma.internalMappings.IsEmpty() {\n",
    to: "\t\tif needInternalMappings && (pma.internalMappings.IsEmpty() || pseg.hasUnloaded(ar)) {\n",
  },
  {
    file: memory,
    from: "\t\t\t\t\t\tcopyAR = pseg.Range().Intersect(hugeMaskAR)\n\t\t\t\t\t}\n",
    to: `						copyAR = pseg.Range().Intersect(hugeMaskAR)
						if pseg.hasUnloaded(copyAR) {
							// What nobody has used yet is not loaded for a copy.
							copyAR = copyAR.Intersect(loadUnitAligned(ar))
						}
					}
`,
  },
  {
    file: memory,
    from: "\t\t\t\t\tif err := pseg.getInternalMappingsLocked(); err != nil {\n",
    to: "\t\t\t\t\tif err := pseg.getInternalMappingsLocked(copyAR); err != nil {\n",
  },
  {
    file: memory,
    from: "func (pseg pmaIterator) getInternalMappingsLocked() error {\n\tpma := pseg.ValuePtr()\n",
    to: `func (pseg pmaIterator) getInternalMappingsLocked(ar hostarch.AddrRange) error {
	pma := pseg.ValuePtr()
	mf, _ := pma.file.(*pgalloc.MemoryFile)
	if mf != nil {
		if err := mf.AwaitLoad(pseg.fileRangeOf(ar)); err != nil {
			return err
		}
	}
`,
  },
  {
    file: memory,
    from: "\t\tims, err := pma.file.MapInternal(pseg.fileRange(), perms)\n",
    to: `		var ims safemem.BlockSeq
		var err error
		if mf != nil {
			ims, err = mf.MapUnloaded(pseg.fileRange())
		} else {
			ims, err = pma.file.MapInternal(pseg.fileRange(), perms)
		}
`,
  },
  {
    file: memory,
    from: "func (pseg pmaIterator) fileRange() memmap.FileRange {\n",
    to: `// loadUnit is how much memory of a restored sandbox is loaded at once. Programs like Python use a little of each page.
const loadUnit = 16 << 10

func loadUnitAligned(ar hostarch.AddrRange) hostarch.AddrRange {
	aligned := hostarch.AddrRange{ar.Start &^ (loadUnit - 1), (ar.End + loadUnit - 1) &^ (loadUnit - 1)}
	if aligned.End < ar.End {
		aligned.End = ar.End
	}
	return aligned
}

// hasUnloaded returns true if a page of ar in pseg was not loaded yet.
func (pseg pmaIterator) hasUnloaded(ar hostarch.AddrRange) bool {
	mf, ok := pseg.ValuePtr().file.(*pgalloc.MemoryFile)
	return ok && mf.HasUnloaded(pseg.fileRangeOf(ar.Intersect(pseg.Range())))
}

func (pseg pmaIterator) fileRange() memmap.FileRange {
`,
  },
  {
    file: inOut,
    from: "\t\tif err := pseg.getInternalMappingsLocked(); err != nil {\n",
    to: "\t\tif err := pseg.getInternalMappingsLocked(ar); err != nil {\n",
  },
  {
    file: inOut,
    from: "\t\tif err := pseg.getInternalMappingsLocked(); err == nil {\n",
    to: "\t\tif err := pseg.getInternalMappingsLocked(pmaAR); err == nil {\n",
  },
];

/** As those of `edits.mjs`. */
export const loadEdits = [
  ...useEdits,
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
						if apfl.err() != nil {
							return
						}
						// The end of the last load notifies of aplLFPending.
						apfl.lfStatus.WaitFor(aplLFPending)
						continue
					}
				}
				// Successfully completed all loading for all MemoryFiles.
`,
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
  { file: "pkg/sentry/mm/address_space.go", from: "\t\tsetMapUnit(32 << 20)\n", to: "\t\tsetMapUnit(loadUnit)\n" },
  {
    // Pages may be loaded for as long as the sandbox lives.
    file: restore,
    from: '\t\tif r.asyncMFLoader != nil {\n\t\t\tif err := r.asyncMFLoader.Wait(); err != nil {\n\t\t\t\tlog.Warningf("Killing the sandbox after MemoryFile page loading failed: %v", err)\n\t\t\t\tl.k.Kill(linux.WaitStatusTerminationSignal(linux.SIGKILL))\n\t\t\t\treturn\n\t\t\t}\n\t\t}\n',
    to: '\t\tif r.asyncMFLoader != nil && r.background {\n\t\t\tgo func() {\n\t\t\t\tif err := r.asyncMFLoader.Wait(); err != nil {\n\t\t\t\t\tlog.Warningf("Killing the sandbox after MemoryFile page loading failed: %v", err)\n\t\t\t\t\tl.k.Kill(linux.WaitStatusTerminationSignal(linux.SIGKILL))\n\t\t\t\t}\n\t\t\t}()\n\t\t} else if r.asyncMFLoader != nil {\n\t\t\tif err := r.asyncMFLoader.Wait(); err != nil {\n\t\t\t\tlog.Warningf("Killing the sandbox after MemoryFile page loading failed: %v", err)\n\t\t\t\tl.k.Kill(linux.WaitStatusTerminationSignal(linux.SIGKILL))\n\t\t\t\treturn\n\t\t\t}\n\t\t}\n',
  },
  {
    file: saves,
    from: "\tfr.End = hostarch.MustPageRoundUp(fr.End)\n\n\tapfl := amfl.pf\n",
    to: "\tfr.End = hostarch.MustPageRoundUp(fr.End)\n\n\tapfl := amfl.pf\n\tif apfl.onDemand {\n\t\treturn amfl.loadNow(fr)\n\t}\n",
  },
  { file: saves, from: canEnqueue, to: `${loadNow}\n${canEnqueue}` },
];
