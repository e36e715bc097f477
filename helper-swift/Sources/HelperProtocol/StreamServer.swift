/// The stream socket connects a peer to a port of the guest. The peer writes `CONNECT <port>` and a newline and reads
/// `OK` and a newline; from then on the bytes are the guest's. A refusal is `ERR <reason>` and the end.
import Dispatch

#if canImport(Darwin)
import Darwin
#else
import Glibc
#endif

/// The number of streams that may be open at once. The daemon uses one.
private let maxStreams = 16
/// The length of `CONNECT 4294967295` and a newline.
private let maxGreetingBytes = 19
private let greetingTimeout = DispatchTimeInterval.seconds(5)

/// Opens a port of the guest.
public protocol GuestDialer: Sendable {
  /// A connected descriptor, which the caller closes.
  func connect(toPort port: UInt32) async throws(HelperError) -> Int32
}

/// The number of open streams.
public final class StreamCount: Sendable {
  private let lock = Mutex()
  nonisolated(unsafe) private var count = 0

  public init() {}

  public var value: Int { lock.locked { count } }

  func enter() -> Bool {
    lock.locked {
      guard count < maxStreams else { return false }
      count += 1
      return true
    }
  }

  func leave() { lock.locked { count -= 1 } }
}

/// Serves streams until the listener is closed. The call blocks.
public func serveStreams(_ listener: Int32, _ dialer: some GuestDialer, _ count: StreamCount) {
  while let peer = acceptPeer(listener) {
    guard count.enter() else {
      _ = writeAll(peer, "ERR \(maxStreams) streams are open already\n".utf8)
      close(peer)
      continue
    }
    DispatchQueue(label: "firkin.stream").async { greet(peer, dialer, count) }
  }
}

/// Reads the greeting. Nil for another text, and for a greeting that is late. It reads byte by byte, because the bytes
/// after the newline are the guest's.
func readGreeting(_ peer: Int32) -> UInt32? {
  let end = DispatchTime.now() + greetingTimeout
  var line: [UInt8] = []
  while line.count < maxGreetingBytes, waitForInput(peer, until: end), let byte = readSome(peer, limit: 1)?.first {
    if byte == UInt8(ascii: "\n") { return parseGreeting(line) }
    line.append(byte)
  }
  return nil
}

/// The port in `CONNECT <port>`: decimal digits without sign or leading zero, 1 to 2^32 - 2.
public func parseGreeting(_ line: [UInt8]) -> UInt32? {
  let words = String(decoding: line, as: UTF8.self).split(separator: " ", omittingEmptySubsequences: false)
  guard words.count == 2, words[0] == "CONNECT", let port = UInt32(words[1]), String(port) == words[1] else { return nil }
  return port > 0 && port < UInt32.max ? port : nil
}

private func greet(_ peer: Int32, _ dialer: some GuestDialer, _ count: StreamCount) {
  guard let port = readGreeting(peer) else {
    _ = writeAll(peer, "ERR say CONNECT and a port\n".utf8)
    return finish([peer], count)
  }
  Task {
    do throws(HelperError) {
      let guest = try await dialer.connect(toPort: port)
      guard writeAll(peer, "OK\n".utf8) else { return finish([peer, guest], count) }
      DispatchQueue(label: "firkin.splice").async {
        splice(peer, guest)
        finish([peer, guest], count)
      }
    } catch {
      _ = writeAll(peer, "ERR \(error.message.replacing("\n", with: " "))\n".utf8)
      finish([peer], count)
    }
  }
}

private func finish(_ descriptors: [Int32], _ count: StreamCount) {
  for descriptor in descriptors { close(descriptor) }
  count.leave()
}

private func waitForInput(_ descriptor: Int32, until end: DispatchTime) -> Bool {
  let (now, end) = (DispatchTime.now().uptimeNanoseconds, end.uptimeNanoseconds)
  guard now < end else { return false }
  var wanted = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
  return poll(&wanted, 1, Int32((end - now) / 1_000_000)) == 1
}
