/**
 * What is changed in gVisor so that a restore and a save of a sandbox cost what its memory was used for, not what it
 * has. With `restore --background` a page is read when it is first used, and never ahead. `checkpoint
 * --pages-file-index=N` of such a sandbox writes the pages that were read or made since, into `pages-N.img`; the others
 * stay in the N files that the sandbox was restored from (`pages.img`, `pages-1.img`, …), and the metadata says where.
 */

const saves = "pkg/sentry/pgalloc/save_restore.go";
const allocator = "pkg/sentry/pgalloc/pgalloc.go";
const reader = "pkg/sentry/state/stateio/fdreader.go";
const writer = "pkg/sentry/state/stateio/fdwriter.go";
const pagesFile = "pkg/sentry/state/stateio/pagesfile.go";
const state = "pkg/sentry/control/state.go";
const sandbox = "runsc/sandbox/sandbox.go";
const controller = "runsc/boot/controller.go";
const checkpoint = "runsc/cmd/checkpoint.go";

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

const writerEdits = [
  {
    file: writer,
    from: "\tNoRegisterClientFD\n\n\t// fd is the file descriptor. fd is immutable.\n",
    to: "\tNoRegisterClientFD\n\n\t// Index is the pages file's. Above 0, pages that are not loaded are left in the files before it.\n\tIndex uint64\n\n\t// fd is the file descriptor. fd is immutable.\n",
  },
  {
    file: state,
    from: '\tHavePagesFile bool `json:"have_pages_file"`\n',
    to: '\tHavePagesFile bool `json:"have_pages_file"`\n\n\t// PagesFileIndex is the index of the pages file.\n\tPagesFileIndex uint64 `json:"pages_file_index"`\n',
  },
  {
    file: state,
    from: "\t\tsaveOpts.PagesFile = stateio.NewPagesFileFDWriterDefault(int32(pagesFileFD))\n",
    to: "\t\tpagesFile := stateio.NewPagesFileFDWriterDefault(int32(pagesFileFD))\n\t\tpagesFile.Index = o.PagesFileIndex\n\t\tsaveOpts.PagesFile = pagesFile\n",
  },
];

const commandEdits = [
  {
    file: checkpoint,
    from: "\tcheckpointExtra\n}\n",
    to: "\t// pagesFileIndex is the index of the pages file; the files before it are those that the sandbox was restored from.\n\tpagesFileIndex uint64\n\n\tcheckpointExtra\n}\n",
  },
  {
    file: checkpoint,
    from: '\tf.BoolVar(&c.direct, "direct", false,',
    to: '\tf.Uint64Var(&c.pagesFileIndex, "pages-file-index", 0, "leave pages that were not used since the restore in the pages files before this one")\n\tf.BoolVar(&c.direct, "direct", false,',
  },
  {
    file: checkpoint,
    from: "\t\tDirect:                     c.direct,\n",
    to: "\t\tDirect:                     c.direct,\n\t\tPagesFileIndex:             c.pagesFileIndex,\n",
  },
  {
    file: sandbox,
    from: "\tExcludeCommittedZeroPages bool\n\n\t// Save/restore exec options.\n",
    to: "\tExcludeCommittedZeroPages bool\n\tPagesFileIndex            uint64\n\n\t// Save/restore exec options.\n",
  },
  {
    file: sandbox,
    from: "\tfiles, err := createSaveFiles(imagePath, opts.Direct, opts.Compression)\n",
    to: "\topt.PagesFileIndex = opts.PagesFileIndex\n\tfiles, err := createSaveFiles(imagePath, opts.Direct, opts.Compression, opts.PagesFileIndex)\n",
  },
  {
    file: sandbox,
    from: "func createSaveFiles(path string, direct bool, compression statefile.CompressionLevel) (",
    to: `// nthPagesFile returns the name of the pages file with the index.
func nthPagesFile(index uint64) string {
	if index == 0 {
		return checkpointfiles.PagesFileName
	}
	return fmt.Sprintf("pages-%d.img", index)
}

func createSaveFiles(path string, direct bool, compression statefile.CompressionLevel, index uint64) (`,
  },
  {
    file: sandbox,
    from: "createSaveFiles(conf.TestOnlyAutosaveImagePath, false, statefile.CompressionLevelFlateBestSpeed)",
    to: "createSaveFiles(conf.TestOnlyAutosaveImagePath, false, statefile.CompressionLevelFlateBestSpeed, 0)",
  },
  {
    file: sandbox,
    from: "\t\tpagesFilePath := filepath.Join(path, checkpointfiles.PagesFileName)\n",
    to: "\t\tpagesFilePath := filepath.Join(path, nthPagesFile(index))\n",
  },
  {
    file: sandbox,
    from: "\t\topt.FilePayload.Files = append(opt.FilePayload.Files, pf)\n\t\topt.HavePagesFile = true\n",
    to: `		opt.FilePayload.Files = append(opt.FilePayload.Files, pf)
		opt.HavePagesFile = true
		for {
			more, err := os.OpenFile(path.Join(imagePath, nthPagesFile(uint64(opt.MorePagesFiles+1))), pagesReadFlags, 0)
			if os.IsNotExist(err) {
				break
			}
			if err != nil {
				return fmt.Errorf("opening pages file failed: %w", err)
			}
			opt.FilePayload.Files = append(opt.FilePayload.Files, more)
			opt.MorePagesFiles++
		}
`,
  },
  {
    file: controller,
    from: "\tHavePagesFile  bool\n\tHaveDeviceFile bool\n",
    to: "\tHavePagesFile  bool\n\tMorePagesFiles int\n\tHaveDeviceFile bool\n",
  },
  {
    file: controller,
    from: "\tpagesFile, err := o.ReleaseFD(2)\n\tif err != nil {\n\t\treturn nil, nil, nil, err\n\t}\n",
    to: `	pagesFile, err := o.ReleaseFD(2)
	if err != nil {
		return nil, nil, nil, err
	}
	cu.Add(func() { pagesFile.Close() })
	var more []int32
	for i := 0; i < o.MorePagesFiles; i++ {
		file, err := o.ReleaseFD(3 + i)
		if err != nil {
			return nil, nil, nil, err
		}
		more = append(more, int32(file.Release()))
	}
`,
  },
  {
    file: controller,
    from: "\t\tstateio.NewPagesFileFDReaderDefault(int32(pagesFile.Release())),\n",
    to: "\t\tstateio.NewPagesFileFDReaderDefault(int32(pagesFile.Release()), more...),\n",
  },
  {
    file: controller,
    from: "cm.restorer.mainMF, timer.Fork(",
    to: "cm.restorer.mainMF, o.Background, timer.Fork(",
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
    to: "\tgo mfl.backgroundGoroutine(pagesMetadata, pagesFile, mainMF, onDemand, timeline)\n",
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
  { file: "pkg/sentry/mm/address_space.go", from: "\t\tsetMapUnit(32 << 20)\n", to: "\t\tsetMapUnit(256 << 10)\n" },
  {
    // Pages may be loaded for as long as the sandbox lives.
    file: "runsc/boot/restore.go",
    from: '\t\tif r.asyncMFLoader != nil {\n\t\t\tif err := r.asyncMFLoader.Wait(); err != nil {\n\t\t\t\tlog.Warningf("Killing the sandbox after MemoryFile page loading failed: %v", err)\n\t\t\t\tl.k.Kill(linux.WaitStatusTerminationSignal(linux.SIGKILL))\n\t\t\t\treturn\n\t\t\t}\n\t\t}\n',
    to: '\t\tif r.asyncMFLoader != nil && r.background {\n\t\t\tgo func() {\n\t\t\t\tif err := r.asyncMFLoader.Wait(); err != nil {\n\t\t\t\t\tlog.Warningf("Killing the sandbox after MemoryFile page loading failed: %v", err)\n\t\t\t\t\tl.k.Kill(linux.WaitStatusTerminationSignal(linux.SIGKILL))\n\t\t\t\t}\n\t\t\t}()\n\t\t} else if r.asyncMFLoader != nil {\n\t\t\tif err := r.asyncMFLoader.Wait(); err != nil {\n\t\t\t\tlog.Warningf("Killing the sandbox after MemoryFile page loading failed: %v", err)\n\t\t\t\tl.k.Kill(linux.WaitStatusTerminationSignal(linux.SIGKILL))\n\t\t\t\treturn\n\t\t\t}\n\t\t}\n',
  },
];

/** The metadata of a pages file has, after gVisor's own, where the pages are: `[start, end, offset]` of each run. */
const placeEdits = [
  {
    file: saves,
    from: "// SaveTo writes f's state to the given stream.\n",
    to: `// placedRange is a range of a MemoryFile and its offset among the pages files.
type placedRange struct {
	Start, End, Off uint64
}

func writePlaces(w io.Writer, places []placedRange) error {
	if err := binary.Write(w, binary.LittleEndian, uint64(len(places))); err != nil {
		return err
	}
	return binary.Write(w, binary.LittleEndian, places)
}

func readPlaces(r io.Reader) ([]placedRange, error) {
	var count uint64
	if err := binary.Read(r, binary.LittleEndian, &count); err != nil {
		return nil, err
	}
	places := make([]placedRange, count)
	return places, binary.Read(r, binary.LittleEndian, places)
}

// HasUnloaded returns true if a page of fr was not loaded yet.
func (f *MemoryFile) HasUnloaded(fr memmap.FileRange) bool {
	amfl := f.asyncPageLoad.Load()
	if amfl == nil || fr.End <= amfl.minUnloaded.Load() {
		return false
	}
	amfl.pf.mu.Lock()
	defer amfl.pf.mu.Unlock()
	return !amfl.unloaded.IsEmptyRange(fr)
}

// awaitStarted waits for loads that are under way.
func (amfl *asyncMemoryFileLoad) awaitStarted() error {
	var started []memmap.FileRange
	amfl.pf.mu.Lock()
	for ulseg := amfl.unloaded.FirstSegment(); ulseg.Ok(); ulseg = ulseg.NextSegment() {
		if ulseg.ValuePtr().started || len(ulseg.ValuePtr().waiters) != 0 {
			started = append(started, ulseg.Range())
		}
	}
	amfl.pf.mu.Unlock()
	for _, fr := range started {
		if err := amfl.awaitLoad(fr); err != nil {
			return err
		}
	}
	return amfl.pf.err()
}

// split calls one function for each part of fr that is loaded, and another for each that is not.
func (amfl *asyncMemoryFileLoad) split(fr memmap.FileRange, loaded func(memmap.FileRange), unloaded func(memmap.FileRange, uint64)) {
	amfl.pf.mu.Lock()
	defer amfl.pf.mu.Unlock()
	for ulseg := amfl.unloaded.LowerBoundSegment(fr.Start); ulseg.Ok() && ulseg.Start() < fr.End; ulseg = ulseg.NextSegment() {
		part := ulseg.Range().Intersect(fr)
		if fr.Start < part.Start {
			loaded(memmap.FileRange{fr.Start, part.Start})
		}
		unloaded(part, ulseg.ValuePtr().off+(part.Start-ulseg.Start()))
		fr.Start = part.End
	}
	if fr.Length() != 0 {
		loaded(fr)
	}
}

// SaveTo writes f's state to the given stream.
`,
  },
  {
    file: saves,
    from: '\tif err := f.AwaitLoadAll(); err != nil {\n\t\treturn fmt.Errorf("previous async page loading failed: %w", err)\n\t}\n',
    to: `	// What was not loaded stays where it is.
	var kept *asyncMemoryFileLoad
	index := uint64(0)
	if opts.PagesFile != nil {
		if writer, ok := opts.PagesFile.aw.(*stateio.FDWriter); ok {
			index = writer.Index
		}
	}
	if index > 0 {
		kept = f.asyncPageLoad.Load()
	}
	if kept == nil {
		if err := f.AwaitLoadAll(); err != nil {
			return fmt.Errorf("previous async page loading failed: %w", err)
		}
	} else if err := kept.awaitStarted(); err != nil {
		return fmt.Errorf("previous async page loading failed: %w", err)
	}
	var places []placedRange
	var placeErr error
`,
  },
  {
    file: saves,
    from: `		asyncWritePages = func(fr memmap.FileRange) {
			amount := fr.Length()
			amfs.pf.mu.Lock()
`,
    to: `		asyncWriteLoaded := func(fr memmap.FileRange) {
			amount := fr.Length()
			amfs.pf.mu.Lock()
			places = append(places, placedRange{fr.Start, fr.End, index<<stateio.PagesFileIndexShift | amfs.pf.saveOff})
`,
  },
  {
    file: saves,
    from: "\t\t\tamfs.pf.stStatus.Notify(apsSTPending)\n\t\t}\n\t}\n",
    to: `			amfs.pf.stStatus.Notify(apsSTPending)
		}
		asyncWritePages = asyncWriteLoaded
		if kept != nil {
			asyncWritePages = func(fr memmap.FileRange) {
				kept.split(fr, asyncWriteLoaded, func(fr memmap.FileRange, off uint64) {
					if off>>stateio.PagesFileIndexShift >= index {
						placeErr = fmt.Errorf("pages %v are in pages file %d, and the new one has index %d", fr, off>>stateio.PagesFileIndexShift, index)
					}
					places = append(places, placedRange{fr.Start, fr.End, off})
				})
			}
		}
	}
`,
  },
  {
    file: saves,
    from: '\tlog.Infof("MemoryFile(%p): saved metadata in %s", f, time.Duration(gohacks.Nanotime()-timeMetadataStart))\n',
    to: `	if placeErr != nil {
		return placeErr
	}
	if amfs != nil {
		if err := writePlaces(w, places); err != nil {
			return fmt.Errorf("failed to save the places of pages: %w", err)
		}
	}
	log.Infof("MemoryFile(%p): saved metadata in %s", f, time.Duration(gohacks.Nanotime()-timeMetadataStart))
`,
  },
  {
    file: saves,
    from: "\tf.unwasteSmall.MoveFrom(mfs.unwasteSmall)\n",
    to: `	var places []placedRange
	if opts.PagesFile != nil {
		var err error
		if places, err = readPlaces(r); err != nil {
			return fmt.Errorf("failed to load the places of pages: %w", err)
		}
	}
	f.unwasteSmall.MoveFrom(mfs.unwasteSmall)
`,
  },
  {
    file: saves,
    from: "\t\t\tamfl.unloaded.InsertRange(maFR, aplUnloadedInfo{\n\t\t\t\toff: amfl.pf.loadOff,\n\t\t\t})\n",
    to: `			for len(places) != 0 && places[0].Start < maFR.End {
				amfl.unloaded.InsertRange(memmap.FileRange{places[0].Start, places[0].End}, aplUnloadedInfo{
					off: places[0].Off,
				})
				places = places[1:]
			}
`,
  },
  {
    file: saves,
    from: 'import (\n\t"bytes"\n\t"context"\n',
    to: 'import (\n\t"bytes"\n\t"context"\n\t"encoding/binary"\n',
  },
];

/** As those of `edits.mjs`. */
export const memoryEdits = [...readerEdits, ...writerEdits, ...commandEdits, ...loadEdits, ...placeEdits];
