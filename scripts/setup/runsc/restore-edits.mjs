/**
 * What is changed in gVisor so that a restore costs what the memory of a machine is used for, not what it has. With
 * `restore --background` a page is read when it is first used, and never ahead, from the pages files of several
 * checkpoints (`checkpoint-edits.mjs`).
 */

import { loadEdits } from "./load-edits.mjs";

const reader = "pkg/sentry/state/stateio/fdreader.go";
const pagesFile = "pkg/sentry/state/stateio/pagesfile.go";

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

// SyncReader reads in the calling goroutine.
type SyncReader interface {
	ReadNow(off int64, dst []byte) error
}

// ReadNow implements SyncReader.ReadNow.
func (r *FDReader) ReadNow(off int64, dst []byte) error {
	fd, at := r.at(off)
	for len(dst) != 0 {
		n, err := unix.Pread(int(fd), dst, at)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		dst, at = dst[n:], at+int64(n)
	}
	return nil
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

/** As those of `edits.mjs`. */
export const restoreEdits = [...readerEdits, ...loadEdits];
