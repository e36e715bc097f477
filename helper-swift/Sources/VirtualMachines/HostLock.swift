/// The host lock allows one save or restore at a time on the whole host, because two at once have brought guests back
/// with damaged file systems. Its path depends on the user alone, so that daemons with different state folders share
/// it.
import Dispatch
import HelperProtocol

#if canImport(Darwin)
import Darwin
#else
import Glibc
#endif

public struct HostLock: Sendable {
  public enum Kind: Sendable {
    /// For a save, or a restore up to the moment the machine runs.
    case exclusive
    /// For a start or an end, any number at a time.
    case shared
  }

  let path: String

  public init(path: String = "/var/tmp/firkin-vz-\(geteuid()).lock") { self.path = path }

  /// Waits for the lock without holding up the caller's queue. ``release(_:)`` gives it back, and so does the end of
  /// the process.
  public func acquire(_ kind: Kind) async throws -> Int32 {
    try await withCheckedThrowingContinuation { continuation in
      DispatchQueue(label: "firkin.host-lock").async {
        continuation.resume(with: Swift.Result { try lockNow(path, kind == .exclusive ? LOCK_EX : LOCK_SH) })
      }
    }
  }

  public func release(_ descriptor: Int32) { close(descriptor) }
}

private func lockNow(_ path: String, _ operation: Int32) throws(HelperError) -> Int32 {
  let descriptor = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0o600)
  guard descriptor >= 0 else { throw systemProblem("cannot open \(path)") }
  var info = stat()
  guard fstat(descriptor, &info) == 0, info.st_uid == geteuid() else {
    close(descriptor)
    throw HelperError(.inputOutput, "\(path) belongs to somebody else")
  }
  while flock(descriptor, operation) != 0 {
    if errno == EINTR { continue }
    let problem = systemProblem("cannot lock \(path)")
    close(descriptor)
    throw problem
  }
  return descriptor
}
