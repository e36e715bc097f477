/// What a save does with files: clones of the disk, durable new files, and where a sparse file has data.
import HelperProtocol

#if canImport(Darwin)
import Darwin
#else
import Glibc
import LinuxCalls
#endif

private let blockBytes = 1 << 20

// Macros that Swift does not see everywhere.
#if canImport(Darwin)
private let (seekHole, seekData): (Int32, Int32) = (3, 4)
#else
private let (seekData, seekHole): (Int32, Int32) = (3, 4)
#endif

/// A copy of the moment, in a new file: by reference where the file system can (always on APFS), else of its data only.
public func cloneFile(_ source: String, to target: String) throws(HelperError) {
  #if canImport(Darwin)
  guard clonefile(source, target, 0) == 0 else { throw systemProblem("cannot clone \(source) to \(target)") }
  #else
  let from = open(source, O_RDONLY | O_CLOEXEC)
  guard from >= 0 else { throw systemProblem("cannot open \(source)") }
  defer { close(from) }
  let to = open(target, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
  guard to >= 0 else { throw systemProblem("cannot make \(target)") }
  defer { close(to) }
  if linux_clone(from, to) == 0 { return }
  guard copyData(from, to) else {
    let problem = systemProblem("cannot copy \(source) to \(target)")
    unlink(target)
    throw problem
  }
  #endif
}

/// Makes a clone the machine's own: writable whatever its source was, and of the size that its shape says.
public func growFile(_ path: String, toMiB size: Int) throws(HelperError) {
  var info = stat()
  guard chmod(path, 0o600) == 0, stat(path, &info) == 0 else { throw systemProblem("cannot use \(path)") }
  let wanted = off_t(size) << 20
  guard info.st_size >= wanted || truncate(path, wanted) == 0 else { throw systemProblem("cannot grow \(path)") }
}

/// Makes a file's bytes survive a power cut, and then gives it its name.
public func publishFile(_ unfinished: String, as target: String) throws(HelperError) {
  let descriptor = open(unfinished, O_RDONLY | O_CLOEXEC)
  guard descriptor >= 0 else { throw systemProblem("cannot open \(unfinished)") }
  defer { close(descriptor) }
  guard fsync(descriptor) == 0, rename(unfinished, target) == 0 else { throw systemProblem("cannot finish \(target)") }
}

/// Runs `[first, count]` of blocks of 1 MiB that hold data: what a digest of the file must read.
public func dataBlocks(of path: String) throws(HelperError) -> [[Int]] {
  let descriptor = open(path, O_RDONLY | O_CLOEXEC)
  guard descriptor >= 0 else { throw systemProblem("cannot open \(path)") }
  defer { close(descriptor) }
  var runs: [[Int]] = []
  for (start, end) in dataRanges(descriptor) {
    let (first, last) = (start / blockBytes, (end - 1) / blockBytes)
    if let previous = runs.last, first <= previous[0] + previous[1] {
      runs[runs.count - 1][1] = max(previous[1], last - previous[0] + 1)
    } else {
      runs.append([first, last - first + 1])
    }
  }
  return runs
}

private func dataRanges(_ descriptor: Int32) -> [(Int, Int)] {
  var ranges: [(Int, Int)] = []
  var position: off_t = 0
  while true {
    let start = lseek(descriptor, position, seekData)
    guard start >= 0 else { return ranges }
    let end = lseek(descriptor, start, seekHole)
    guard end > start else { return ranges }
    ranges.append((Int(start), Int(end)))
    position = end
  }
}

#if canImport(Glibc)
private func copyData(_ from: Int32, _ to: Int32) -> Bool {
  var info = stat()
  guard fstat(from, &info) == 0, ftruncate(to, info.st_size) == 0 else { return false }
  for (start, end) in dataRanges(from) {
    var position = start
    while position < end {
      let count = linux_copy_range(from, to, off_t(position), end - position)
      guard count > 0 else { return false }
      position += count
    }
  }
  return true
}
#endif
