/// Files of a save: clones of the disk, durable new files, and the data blocks of a sparse file.
import HelperProtocol

#if canImport(Darwin)
import Darwin
#else
import Glibc
import LinuxCalls
#endif

private let blockBytes = 1 << 20

// Swift does not import these macros on every system.
#if canImport(Darwin)
private let (seekHole, seekData): (Int32, Int32) = (3, 4)
#else
private let (seekData, seekHole): (Int32, Int32) = (3, 4)
#endif

/// Copies a file into a new one as it is now: by reference where the file system can (on one volume with APFS), else
/// only its data.
public func cloneFile(_ source: String, to target: String) throws(HelperError) {
  #if canImport(Darwin)
  // Another process, the framework's, may have written the source a moment ago.
  try flushFile(source)
  if clonefile(source, target, 0) == 0 { return }
  guard errno == EXDEV || errno == ENOTSUP else { throw systemProblem("cannot clone \(source) to \(target)") }
  let flags = copyfile_flags_t(COPYFILE_DATA | COPYFILE_EXCL | COPYFILE_DATA_SPARSE)
  guard copyfile(source, target, nil, flags) == 0 else {
    let problem = systemProblem("cannot copy \(source) to \(target), which is on another volume or not on APFS")
    unlink(target)
    throw problem
  }
  #else
  let from = open(source, O_RDONLY | O_CLOEXEC)
  guard from >= 0 else { throw systemProblem("cannot open \(source)") }
  defer { close(from) }
  let to = open(target, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
  guard to >= 0 else { throw systemProblem("cannot make \(target)") }
  defer { close(to) }
  if linux_clone(from, to) == 0 { return }
  do throws(HelperError) {
    try copyData(from, to)
  } catch {
    unlink(target)
    throw HelperError(error.code, "cannot copy \(source) to \(target): \(error.message)", domain: error.domain, number: error.number)
  }
  #endif
}

/// Makes a clone the machine's own: writable even if its source is not, and of the size of the machine's shape.
public func growFile(_ path: String, toMiB size: Int) throws(HelperError) {
  var info = stat()
  guard chmod(path, 0o600) == 0, stat(path, &info) == 0 else { throw systemProblem("cannot use \(path)") }
  let wanted = off_t(size) << 20
  guard info.st_size >= wanted || truncate(path, wanted) == 0 else { throw systemProblem("cannot grow \(path)") }
}

#if canImport(Darwin)
/// Hands a file's bytes to the file system, which then clones them.
private func flushFile(_ path: String) throws(HelperError) {
  let descriptor = open(path, O_RDONLY | O_CLOEXEC)
  guard descriptor >= 0 else { throw systemProblem("cannot open \(path)") }
  defer { close(descriptor) }
  guard fsync(descriptor) == 0 else { throw systemProblem("cannot sync \(path)") }
}
#endif

/// Makes a file's bytes survive a power cut.
public func syncFile(_ path: String) throws(HelperError) {
  let descriptor = open(path, O_RDONLY | O_CLOEXEC)
  guard descriptor >= 0 else { throw systemProblem("cannot open \(path)") }
  defer { close(descriptor) }
  #if canImport(Darwin)
  // On macOS fsync(2) leaves the bytes in the drive's own cache. Not every file system has the stronger call.
  if fcntl(descriptor, F_FULLFSYNC) == 0 { return }
  #endif
  guard fsync(descriptor) == 0 else { throw systemProblem("cannot sync \(path)") }
}

/// Runs `[first, count]` of blocks of 1 MiB that hold data, which a digest of the file must read. APFS tells the truth
/// only about files that were synced.
public func dataBlocks(of path: String) throws(HelperError) -> [[Int]] {
  let descriptor = open(path, O_RDONLY | O_CLOEXEC)
  guard descriptor >= 0 else { throw systemProblem("cannot open \(path)") }
  defer { close(descriptor) }
  var runs: [[Int]] = []
  for (start, end) in try dataRanges(descriptor) {
    let (first, last) = (start / blockBytes, (end - 1) / blockBytes)
    if let previous = runs.last, first <= previous[0] + previous[1] {
      runs[runs.count - 1][1] = max(previous[1], last - previous[0] + 1)
    } else {
      runs.append([first, last - first + 1])
    }
  }
  return runs
}

private func dataRanges(_ descriptor: Int32) throws(HelperError) -> [(Int, Int)] {
  var ranges: [(Int, Int)] = []
  var position: off_t = 0
  while true {
    let start = lseek(descriptor, position, seekData)
    if start < 0 && errno == ENXIO { return ranges }
    let end = start < 0 ? start : lseek(descriptor, start, seekHole)
    // A failure that was taken for the end of the data would turn data into zeros.
    guard end > start else { throw systemProblem("the file system does not tell where a file has data") }
    ranges.append((Int(start), Int(end)))
    position = end
  }
}

#if canImport(Glibc)
private func copyData(_ from: Int32, _ to: Int32) throws(HelperError) {
  var info = stat()
  guard fstat(from, &info) == 0, ftruncate(to, info.st_size) == 0 else { throw systemProblem("no room") }
  for (start, end) in try dataRanges(from) {
    var position = start
    while position < end {
      let count = linux_copy_range(from, to, off_t(position), end - position)
      guard count > 0 else { throw systemProblem("cut off") }
      position += count
    }
  }
}
#endif
