/// Unix stream sockets with early checks of their paths, of mode 0600 and only for peers of the same user. A caller
/// owns the descriptors it gets; nothing here closes one that was handed out.

#if canImport(Darwin)
import Darwin
#else
import Glibc
#endif

#if canImport(Darwin)
let streamType = SOCK_STREAM
#else
let streamType = Int32(SOCK_STREAM.rawValue)
#endif

/// The longest path of a socket on this system: 103 bytes on macOS, 107 on Linux.
public let maxSocketPathBytes = MemoryLayout.size(ofValue: sockaddr_un().sun_path) - 1

/// Listens at a new path.
/// - Throws: ``HelperError`` `invalid_argument` for a path over the limit, `input_output` otherwise.
public func listen(at path: String) throws(HelperError) -> Int32 {
  let address = try socketAddress(path)
  let descriptor = try newSocket()
  // The file is private from its first moment, so that no other user can connect.
  let mask = umask(0o177)
  let bound = withSocketAddress(address) { bind(descriptor, $0, $1) }
  umask(mask)
  guard bound == 0, listen(descriptor, 16) == 0 else {
    let problem = systemProblem("cannot listen at \(path)")
    close(descriptor)
    throw problem
  }
  return descriptor
}

public func connect(to path: String) throws(HelperError) -> Int32 {
  let address = try socketAddress(path)
  let descriptor = try newSocket()
  guard withSocketAddress(address, { connect(descriptor, $0, $1) }) == 0 else {
    let problem = systemProblem("cannot connect to \(path)")
    close(descriptor)
    throw problem
  }
  return descriptor
}

/// The next connection of a peer of our own user. Connections of other users are closed. Nil when the listener is
/// closed. Out of descriptors or memory it waits for some, and peers that could not connect meanwhile come next.
public func acceptPeer(_ listener: Int32) -> Int32? {
  while true {
    let descriptor = accept(listener, nil, nil)
    if descriptor < 0 {
      switch errno {
      case EINTR, ECONNABORTED: continue
      case EMFILE, ENFILE, ENOBUFS, ENOMEM: usleep(50_000)
      default: return nil
      }
      continue
    }
    if prepare(descriptor), peerUser(of: descriptor) == geteuid() { return descriptor }
    close(descriptor)
  }
}

/// The user at the other end of a connected socket.
public func peerUser(of descriptor: Int32) -> uid_t? {
  #if canImport(Darwin)
  var user = uid_t()
  var group = gid_t()
  return getpeereid(descriptor, &user, &group) == 0 ? user : nil
  #else
  // struct ucred: pid, uid, gid.
  var credentials: (pid_t, uid_t, gid_t) = (0, 0, 0)
  var size = socklen_t(MemoryLayout.size(ofValue: credentials))
  return getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0 ? credentials.1 : nil
  #endif
}

/// Writes all bytes, and waits as long as the socket's own send time-out allows. False when the peer is gone or stuck.
public func writeAll(_ descriptor: Int32, _ bytes: some Collection<UInt8>) -> Bool {
  var rest = Array(bytes)[...]
  while !rest.isEmpty {
    let written = rest.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
    if written < 0 && errno == EINTR { continue }
    guard written > 0 else { return false }
    rest = rest.dropFirst(written)
  }
  return true
}

/// The bytes that arrived, at most `limit`. Nil at the end, or when reading failed.
public func readSome(_ descriptor: Int32, limit: Int = 65_536) -> [UInt8]? {
  while true {
    let bytes = [UInt8](unsafeUninitializedCapacity: limit) { buffer, count in
      count = max(0, read(descriptor, buffer.baseAddress, limit))
      if count == 0 { return }
    }
    if !bytes.isEmpty { return bytes }
    if errno != EINTR { return nil }
    errno = 0
  }
}

/// The system's reason for the call that has just failed.
public func systemProblem(_ what: String) -> HelperError {
  let number = errno
  return HelperError(.inputOutput, "\(what): \(String(cString: strerror(number)))", domain: "errno", number: Int(number))
}

private func newSocket() throws(HelperError) -> Int32 {
  let descriptor = socket(AF_UNIX, streamType, 0)
  guard descriptor >= 0 else { throw systemProblem("no socket") }
  guard prepare(descriptor) else {
    let problem = systemProblem("a socket cannot be set up")
    close(descriptor)
    throw problem
  }
  return descriptor
}

/// Keeps a descriptor from being inherited by programs that are started, and from raising SIGPIPE.
private func prepare(_ descriptor: Int32) -> Bool {
  guard fcntl(descriptor, F_SETFD, FD_CLOEXEC) == 0 else { return false }
  #if canImport(Darwin)
  // macOS gives a Unix socket 8 KiB. The system may give less than asked for, and the socket works all the same.
  var buffer: Int32 = 262_144
  for option in [SO_SNDBUF, SO_RCVBUF] {
    _ = setsockopt(descriptor, SOL_SOCKET, option, &buffer, socklen_t(MemoryLayout.size(ofValue: buffer)))
  }
  var on: Int32 = 1
  return setsockopt(descriptor, SOL_SOCKET, SO_NOSIGPIPE, &on, socklen_t(MemoryLayout.size(ofValue: on))) == 0
  #else
  return true
  #endif
}

private func socketAddress(_ path: String) throws(HelperError) -> sockaddr_un {
  let bytes = Array(path.utf8)
  guard bytes.count <= maxSocketPathBytes, !bytes.isEmpty, !bytes.contains(0) else {
    throw HelperError(
      .invalidArgument, "a socket's path has at most \(maxSocketPathBytes) bytes here; \(path) has \(bytes.count)")
  }
  var address = sockaddr_un()
  address.sun_family = sa_family_t(AF_UNIX)
  withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
  return address
}

private func withSocketAddress<Result>(
  _ address: sockaddr_un, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Result
) -> Result {
  withUnsafePointer(to: address) {
    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
  }
}
