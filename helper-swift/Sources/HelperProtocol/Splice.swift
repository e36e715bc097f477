/// The splice joins two sockets. Bytes go both ways through one buffer each, which is filled only when the other end
/// has taken its content (back-pressure), and an end of one direction is passed on as the end of that direction
/// (half-close).

#if canImport(Darwin)
import Darwin
#else
import Glibc
#endif

private let bufferBytes = 65_536
private let pollError = Int16(POLLERR | POLLNVAL)

/// Runs until both directions have ended or one socket breaks. The call blocks. It closes neither socket, but a broken
/// socket ends both directions.
public func splice(_ one: Int32, _ other: Int32) {
  for descriptor in [one, other] { _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK) }
  var there = Direction(from: one, to: other)
  var back = Direction(from: other, to: one)
  while !(there.ended && back.ended) {
    var wanted = [pollfd(fd: one, events: 0, revents: 0), pollfd(fd: other, events: 0, revents: 0)]
    wanted[0].events = there.wantsInput | back.wantsOutput
    wanted[1].events = back.wantsInput | there.wantsOutput
    // A socket without events to wait for would only report again and again that its peer hung up.
    for index in wanted.indices where wanted[index].events == 0 { wanted[index].fd = -1 }
    if poll(&wanted, nfds_t(wanted.count), -1) < 0 {
      if errno == EINTR { continue }
      break
    }
    guard wanted.allSatisfy({ $0.revents & pollError == 0 }), there.move(), back.move() else { break }
  }
  _ = shutdown(one, Int32(SHUT_RDWR))
  _ = shutdown(other, Int32(SHUT_RDWR))
}

private struct Direction {
  let from: Int32
  let to: Int32
  private var buffer: [UInt8] = []
  private var sent = 0
  private var inputEnded = false
  private(set) var ended = false

  init(from: Int32, to: Int32) {
    self.from = from
    self.to = to
  }

  private var isEmpty: Bool { sent == buffer.count }
  var wantsInput: Int16 { isEmpty && !inputEnded ? Int16(POLLIN) : 0 }
  var wantsOutput: Int16 { isEmpty ? 0 : Int16(POLLOUT) }

  /// Moves the bytes that can be moved without waiting. False when a socket is broken.
  mutating func move() -> Bool {
    if ended { return true }
    if isEmpty && !inputEnded && !fill() { return false }
    if !isEmpty && !flush() { return false }
    if isEmpty && inputEnded {
      _ = shutdown(to, Int32(SHUT_WR))
      ended = true
    }
    return true
  }

  private mutating func fill() -> Bool {
    let from = from
    var result = 0
    buffer = [UInt8](unsafeUninitializedCapacity: bufferBytes) { bytes, count in
      result = read(from, bytes.baseAddress, bufferBytes)
      count = max(0, result)
    }
    sent = 0
    if result < 0 { return mayComeLater(errno) }
    inputEnded = result == 0
    return true
  }

  private mutating func flush() -> Bool {
    let written = buffer[sent...].withUnsafeBytes { write(to, $0.baseAddress, $0.count) }
    if written < 0 { return mayComeLater(errno) }
    sent += written
    return true
  }
}

private func mayComeLater(_ number: Int32) -> Bool {
  number == EAGAIN || number == EWOULDBLOCK || number == EINTR
}
