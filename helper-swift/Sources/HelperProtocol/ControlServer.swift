/// The control socket takes requests and gives replies, each a line. Requests of one connection run at the same time,
/// so that `kill` overtakes a `save`. Replies carry the id of their request.
import Dispatch

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif
#if canImport(Darwin)
import Darwin
#else
import Glibc
#endif

/// The handler of requests that passed the checks of the protocol.
public protocol ControlHandler: Sendable {
  /// Never throws, because a failure is a reply too.
  func reply(to request: Request) async -> Data
  /// The present state and every change from now on. The stream ends with the connection.
  func events() async -> AsyncStream<Event>
}

/// The number of requests of one connection that may run at once.
private let maxRequestsUnderWay = 64
/// How long a peer may leave replies unread before its connection is ended.
private let sendTimeoutSeconds = 10

/// The replies that are owed: their requests were taken, and they are not sent yet. A process that wants to end lets its
/// peers have them, because a save that nobody hears of is a lost one.
public final class OwedReplies: Sendable {
  private let group = DispatchGroup()

  public init() {}

  func begin() { group.enter() }
  func end() { group.leave() }

  /// Calls the body once nothing is owed any more.
  public func whenPaid(_ body: @escaping @Sendable () -> Void) { group.notify(queue: .global(), execute: body) }
}

/// Serves connections until the listener is closed. The call blocks.
public func serveControl(_ listener: Int32, _ handler: some ControlHandler, _ owed: OwedReplies) {
  while let descriptor = acceptPeer(listener) {
    let connection = ControlConnection(descriptor, handler, owed)
    DispatchQueue(label: "firkin.control.connection").async { connection.run() }
  }
}

/// `lock` guards everything that changes after `init`.
private final class ControlConnection: @unchecked Sendable {
  private let descriptor: Int32
  private let handler: any ControlHandler
  private let owed: OwedReplies
  private let lock = Mutex()
  private let room = DispatchSemaphore(value: maxRequestsUnderWay)
  private var isOpen = true
  private var saidHello = false
  private var eventTask: Task<Void, Never>?

  init(_ descriptor: Int32, _ handler: some ControlHandler, _ owed: OwedReplies) {
    self.descriptor = descriptor
    self.handler = handler
    self.owed = owed
    var timeout = timeval()
    timeout.tv_sec = .init(sendTimeoutSeconds)
    setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &timeout, socklen_t(MemoryLayout.size(ofValue: timeout)))
  }

  /// Reads until the peer hangs up or sends a line that is no message.
  func run() {
    var decoder = LineDecoder()
    do throws(HelperError) {
      while let bytes = readSome(descriptor) {
        for line in try decoder.take(bytes) { try handle(line) }
      }
    } catch {
      refuse(nil, error)
    }
    finish()
  }

  /// - Throws: failures that end the connection. Other failures are replies.
  private func handle(_ line: Data) throws(HelperError) {
    let request: Request
    do throws(HelperError) {
      request = try decodeRequest(line)
      try checkGreeting(request.operation)
    } catch {
      if error.code == .badMessage { throw error }
      return refuse(requestId(of: line), error)
    }
    room.wait()
    owed.begin()
    Task {
      send(await handler.reply(to: request))
      owed.end()
      if request.operation == .events { await followEvents() }
      room.signal()
    }
  }

  private func checkGreeting(_ operation: Operation) throws(HelperError) {
    if case .hello(let version) = operation {
      guard version == protocolVersion else {
        throw HelperError(
          .unsupportedVersion, "this helper speaks version \(protocolVersion) of the protocol, not \(version)")
      }
      lock.locked { saidHello = true }
    } else if !lock.locked({ saidHello }) {
      throw HelperError(.helloFirst, "say hello first")
    }
  }

  private func followEvents() async {
    let events = await handler.events()
    lock.locked {
      guard isOpen, eventTask == nil else { return }
      eventTask = Task {
        for await event in events {
          guard let line = try? encodeLine(event) else { continue }
          send(line)
        }
      }
    }
  }

  private func refuse(_ id: Int?, _ error: HelperError) {
    if let line = try? encodeReply(id: id, Outcome<NoReply>.failure(error)) { send(line) }
  }

  /// A peer that reads nothing for too long loses the connection.
  private func send(_ line: Data) {
    lock.locked {
      guard isOpen, !writeAll(descriptor, line) else { return }
      _ = shutdown(descriptor, Int32(SHUT_RDWR))
      isOpen = false
    }
  }

  private func finish() {
    lock.locked {
      isOpen = false
      eventTask?.cancel()
      close(descriptor)
    }
  }
}

/// A mutex that both platforms have without further imports.
public final class Mutex: @unchecked Sendable {
  private let semaphore = DispatchSemaphore(value: 1)

  public init() {}

  public func locked<Result>(_ body: () -> Result) -> Result {
    semaphore.wait()
    defer { semaphore.signal() }
    return body()
  }
}
