/**
 * What is changed in gVisor so that a checkpoint costs what was used since the restore. `checkpoint
 * --pages-file-index=N` of a sandbox that loads pages on demand (`restore-edits.mjs`) writes the pages that were read or
 * made since, into `pages-N.img`; the others stay in the N files that the sandbox was restored from (`pages.img`,
 * `pages-1.img`, …), and the metadata says where.
 */

const saves = "pkg/sentry/pgalloc/save_restore.go";
const writer = "pkg/sentry/state/stateio/fdwriter.go";
const state = "pkg/sentry/control/state.go";
const sandbox = "runsc/sandbox/sandbox.go";
const controller = "runsc/boot/controller.go";
const checkpoint = "runsc/cmd/checkpoint.go";

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
export const checkpointEdits = [...writerEdits, ...commandEdits, ...placeEdits];
