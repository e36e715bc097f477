/// Tests of clones, sparse files and the host's lock, with real files.
import Foundation
import Testing

@testable import VirtualMachines

#if canImport(Glibc)
import Glibc
#endif

private func newFolder() throws -> String {
  let path = "/tmp/firkin-test-\(UUID().uuidString.prefix(8))"
  try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  return path
}

@Test func aCloneIsTheSameBytesAndStaysSparse() throws {
  let folder = try newFolder()
  defer { try? FileManager.default.removeItem(atPath: folder) }
  let source = folder + "/source"
  let descriptor = open(source, O_RDWR | O_CREAT, 0o600)
  try #require(ftruncate(descriptor, 64 << 20) == 0)
  let data = [UInt8](repeating: 7, count: 4096)
  for block in [0, 10, 11, 63] { try #require(pwrite(descriptor, data, data.count, off_t(block << 20)) == data.count) }
  fsync(descriptor)
  close(descriptor)
  try cloneFile(source, to: folder + "/clone")
  #expect(FileManager.default.contentsEqual(atPath: source, andPath: folder + "/clone"))
  #expect(try dataBlocks(of: folder + "/clone") == [[0, 1], [10, 2], [63, 1]])
  #expect(throws: (any Error).self) { try cloneFile(source, to: folder + "/clone") }
  try growFile(folder + "/clone", toMiB: 65)
  #expect(try dataBlocks(of: folder + "/clone") == [[0, 1], [10, 2], [63, 1]])
}

@Test func theHostLockExcludes() async throws {
  let folder = try newFolder()
  defer { try? FileManager.default.removeItem(atPath: folder) }
  let lock = HostLock(path: folder + "/lock")
  let shared = [try await lock.acquire(.shared), try await lock.acquire(.shared)]
  let waiting = Task { try await lock.acquire(.exclusive) }
  try await Task.sleep(for: .milliseconds(50))
  for held in shared { lock.release(held) }
  lock.release(try await waiting.value)
}
