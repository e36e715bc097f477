/// Tests of sockets and splices, with real descriptors.
import Foundation
import HelperProtocol
import Testing

#if canImport(Glibc)
import Glibc
#endif

private func newFolder() throws -> String {
  let path = "/tmp/firkin-test-\(UUID().uuidString.prefix(8))"
  try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  return path
}

private func socketPair() throws -> (Int32, Int32) {
  var ends: [Int32] = [-1, -1]
  #if canImport(Glibc)
  let type = Int32(SOCK_STREAM.rawValue)
  #else
  let type = SOCK_STREAM
  #endif
  try #require(socketpair(AF_UNIX, type, 0, &ends) == 0)
  return (ends[0], ends[1])
}

@Test func aSocketIsPrivateAndItsPeerIsUs() throws {
  let folder = try newFolder()
  defer { try? FileManager.default.removeItem(atPath: folder) }
  let listener = try listen(at: folder + "/s")
  defer { close(listener) }
  var info = stat()
  #expect(stat(folder + "/s", &info) == 0)
  #expect(info.st_mode & 0o777 == 0o600)
  let client = try connect(to: folder + "/s")
  defer { close(client) }
  let served = try #require(acceptPeer(listener))
  defer { close(served) }
  #expect(peerUser(of: served) == geteuid())
}

@Test func aPathOverTheLimitIsRefusedEarly() {
  let path = "/tmp/" + String(repeating: "x", count: maxSocketPathBytes)
  do {
    _ = try listen(at: path)
    Issue.record("it was taken")
  } catch {
    #expect(error.code == .invalidArgument)
    #expect(error.message.contains("\(maxSocketPathBytes)"))
  }
}

/// More bytes than every buffer on the way holds, and a half-close in one direction while the other goes on.
@Test func aSpliceCarriesEverythingAndHalfCloses() throws {
  let (near, one) = try socketPair()
  let (other, far) = try socketPair()
  let done = DispatchSemaphore(value: 0)
  DispatchQueue(label: "splice").async {
    splice(one, other)
    done.signal()
  }
  let sent = (0..<3_000_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
  DispatchQueue(label: "writer").async {
    _ = writeAll(near, sent)
    shutdown(near, Int32(SHUT_WR))
  }
  var received: [UInt8] = []
  while let bytes = readSome(far) { received += bytes }
  #expect(received == sent)
  // The other way is open still.
  #expect(writeAll(far, "answer".utf8))
  #expect(readSome(near).map { String(decoding: $0, as: UTF8.self) } == "answer")
  shutdown(far, Int32(SHUT_WR))
  #expect(done.wait(timeout: .now() + 10) == .success)
  for descriptor in [near, one, other, far] { close(descriptor) }
}

/// A peer that hangs up in the middle ends the splice, and no SIGPIPE ends the process.
@Test func aSpliceEndsWithEitherPeer() throws {
  signal(SIGPIPE, SIG_IGN)
  let (near, one) = try socketPair()
  let (other, far) = try socketPair()
  let done = DispatchSemaphore(value: 0)
  DispatchQueue(label: "splice").async {
    splice(one, other)
    done.signal()
  }
  close(far)
  while writeAll(near, [1]) { usleep(1000) }
  close(near)
  #expect(done.wait(timeout: .now() + 10) == .success)
  for descriptor in [one, other] { close(descriptor) }
}
