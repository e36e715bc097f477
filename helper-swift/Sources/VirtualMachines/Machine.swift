/// The one machine of a helper process: its life cycle, saves, restores and streams. It is an actor on the machine's
/// own queue, because every call into the framework must be made there.
import Dispatch
import HelperProtocol
import Virtualization

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

public actor Machine: GuestDialer {
  private let executor: QueueExecutor
  private let lock: HostLock
  private let streams: StreamCount
  private var machine: VZVirtualMachine?
  private var observer: StopObserver?
  private var disk = ""
  private var state = MachineState.new
  private var detail: String?
  private var listeners: [Int: AsyncStream<Event>.Continuation] = [:]
  private var nextListener = 0
  /// Set once an end was asked for, so that nothing is tried again.
  private var isToEnd = false
  /// How many times the restore was tried.
  public private(set) var restoreTries = 0

  public nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }

  public init(lock: HostLock = HostLock(), streams: StreamCount = StreamCount()) {
    executor = QueueExecutor(label: "firkin.machine")
    self.lock = lock
    self.streams = streams
  }

  public func hello(helperVersion: String) -> HelloReply {
    HelloReply(
      helperVersion: helperVersion, framework: frameworkName, pid: getpid(), state: state, host: hostIdentity(),
      capabilities: capabilities())
  }

  public func stats() -> StatsReply {
    StatsReply(state: state, footprintBytes: footprintBytes(), streams: streams.value)
  }

  /// The state, and why it is so if the machine has ended by itself.
  public func condition() -> (MachineState, String?) { (state, detail) }

  /// Boots a kernel.
  public func start(_ order: StartOrder) async throws -> StartReply {
    try require([.new], "start")
    enter(.starting)
    do {
      try makeDisk(order)
      let identity = try build(order)
      try await holding(.shared) { try await $0.call { $0.start(completionHandler: $1) } }
      enter(.running)
      return identity
    } catch {
      throw await fail(error)
    }
  }

  /// Restores a saved state and lets the machine run, in one hold of the host's lock.
  /// - Parameter patience: how long a restore is tried again whose identity another machine, which is just ending, may
  ///   have still
  public func restore(_ order: RestoreOrder, patience: Duration = .seconds(5)) async throws -> StartReply {
    try require([.new], "restore")
    if let problem = sessionProblem() { throw HelperError(.hostLocked, "nothing can be restored: \(problem)") }
    enter(.restoring)
    do {
      try makeDisk(order.start)
      let identity = try await restoreAgainAndAgain(order, until: .now + patience)
      enter(.running)
      return identity
    } catch {
      throw await fail(error)
    }
  }

  public func pause() async throws {
    if state == .paused { return }
    try require([.running], "pause")
    try await transition(over: .pausing, to: .paused) { try await $0.call { $0.pause(completionHandler: $1) } }
  }

  public func resume() async throws {
    if state == .running { return }
    try require([.paused], "resume")
    try await transition(over: .resuming, to: .running) { try await $0.call { $0.resume(completionHandler: $1) } }
  }

  /// Saves the state and clones the disk of a paused machine, which stays paused. After a failure neither file exists.
  public func save(_ order: SaveOrder) async throws -> SaveReply {
    try require([.paused], "save")
    let (disk, files) = (disk, [order.stateFile, order.diskClone].compactMap { $0 })
    for path in files where access(path, F_OK) == 0 { throw HelperError(.invalidArgument, "\(path) is there already") }
    let unfinished = order.stateFile.map { $0 + ".unfinished" }
    do {
      try await transition(over: .saving, to: .paused) { machine in
        if let unfinished { try await machine.saveState(unfinished) }
        try cloneFile(disk, to: order.diskClone)
      }
      try syncFile(order.diskClone)
      if let unfinished, let stateFile = order.stateFile {
        try syncFile(unfinished)
        guard rename(unfinished, stateFile) == 0 else { throw systemProblem("cannot name \(stateFile)") }
      }
      return SaveReply(dataBlocks: try dataBlocks(of: order.diskClone))
    } catch {
      for path in files + [unfinished].compactMap({ $0 }) { unlink(path) }
      throw error
    }
  }

  /// Ends the machine in order, so that the framework lets go of its files. The guest was told before, over its own
  /// link. It does not wait for the host's lock, which another machine's save may hold for seconds.
  /// - Parameter patience: how long a transition that is under way may take to its end
  public func stop(patience: Duration = .seconds(10)) async throws {
    isToEnd = true
    let end = ContinuousClock.now + patience
    while state.isPassing, ContinuousClock.now < end { try await Task.sleep(for: .milliseconds(10)) }
    if [.new, .stopped, .failed].contains(state) { return enter(.stopped) }
    try require([.running, .paused], "stop")
    try await transition(over: .stopping, to: .stopped) { machine in
      try await machine.callForError { $0.stop(completionHandler: $1) }
    }
    machine = nil
  }

  /// The present state, and every change from now on.
  public func events() -> AsyncStream<Event> {
    let (stream, continuation) = AsyncStream.makeStream(of: Event.self, bufferingPolicy: .bufferingNewest(64))
    let listener = nextListener
    nextListener += 1
    listeners[listener] = continuation
    continuation.onTermination = { [weak self] _ in
      Task { await self?.forget(listener) }
    }
    continuation.yield(Event(state: state, detail: detail))
    return stream
  }

  public func connect(toPort port: UInt32) async throws(HelperError) -> Int32 {
    do {
      return try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Int32, any Error>) in
        guard let device = machine?.socketDevices.first as? VZVirtioSocketDevice else {
          return continuation.resume(throwing: HelperError(.invalidState, noMachine))
        }
        // The closure is Sendable and belongs to no actor, so the queue on which the framework calls it is not checked.
        device.connect(toPort: port) { @Sendable result in
          continuation.resume(with: Result { try takeDescriptor(result.get()) })
        }
      }
    } catch {
      throw describe(error)
    }
  }

  private var noMachine: String {
    state == .new ? "there is no machine yet" : "the machine is \(state.rawValue): \(detail ?? "without a reason")"
  }

  private func saveState(_ path: String) async throws {
    if let problem = sessionProblem() { throw HelperError(.hostLocked, "nothing can be saved: \(problem)") }
    // The framework wants a new file.
    unlink(path)
    let url = URL(fileURLWithPath: path)
    try await holding(.exclusive) { machine in
      try await machine.callForError { $0.saveMachineStateTo(url: url, completionHandler: $1) }
    }
    chmod(path, 0o600)
  }

  private func forget(_ listener: Int) { listeners[listener] = nil }

  private func makeDisk(_ order: StartOrder) throws(HelperError) {
    try cloneFile(order.diskSource, to: order.machine.disk)
    try growFile(order.machine.disk, toMiB: order.machine.diskMiB)
  }

  private func restoreAgainAndAgain(
    _ order: RestoreOrder, until end: ContinuousClock.Instant
  ) async throws -> StartReply {
    var wait = Duration.milliseconds(50)
    while true {
      restoreTries += 1
      let identity = try build(order.start)
      do {
        try await holding(.exclusive) { machine in
          let url = URL(fileURLWithPath: order.stateFile)
          try await machine.callForError { $0.restoreMachineStateFrom(url: url, completionHandler: $1) }
          try await machine.call { $0.resume(completionHandler: $1) }
        }
        return identity
      } catch {
        guard mayBeInUse(error), !isToEnd, ContinuousClock.now + wait < end else { throw error }
      }
      try await Task.sleep(for: wait)
      wait = min(wait * 2, .seconds(1))
    }
  }

  private func build(_ order: StartOrder) throws(HelperError) -> StartReply {
    do {
      let built = try buildMachine(order)
      let machine = VZVirtualMachine(configuration: built.configuration, queue: executor.queue)
      let observer = StopObserver { [weak self] reason in
        Task { await self?.guestEnded(reason) }
      }
      machine.delegate = observer
      self.machine = machine
      self.observer = observer
      disk = order.machine.disk
      return built.identity
    } catch {
      throw describe(error)
    }
  }

  private func guestEnded(_ reason: String) {
    machine = nil
    enter(.stopped, reason)
  }

  private func enter(_ next: MachineState, _ why: String? = nil) {
    // A guest that ended by itself while something was under way stays ended.
    if state == .stopped && next != .stopped { return }
    state = next
    detail = why
    for listener in listeners.values { listener.yield(Event(state: next, detail: why)) }
  }

  private func require(_ allowed: Set<MachineState>, _ verb: String) throws(HelperError) {
    if allowed.contains(state) { return }
    throw HelperError(.invalidState, "cannot \(verb) a machine that is \(state.rawValue)")
  }

  /// A failed start or restore leaves a helper that can only be ended.
  private func fail(_ error: any Error) async -> HelperError {
    var described = describe(error)
    // The framework may have restored the machine, and refused to let it run.
    if let machine, machine.state == .running || machine.state == .paused {
      do {
        try await callForError { $0.stop(completionHandler: $1) }
      } catch {
        described = HelperError(
          described.code, "\(described.message); and the machine cannot be stopped: \(describe(error))",
          domain: described.domain, number: described.number)
      }
    }
    machine = nil
    enter(.failed, described.description)
    return described
  }

  /// One transition; after a failure the machine is where it was.
  private func transition(
    over transient: MachineState, to final: MachineState, _ work: (isolated Machine) async throws -> Void
  ) async throws {
    let before = state
    enter(transient)
    do {
      try await work(self)
      enter(final)
    } catch {
      enter(before)
      throw describe(error)
    }
  }

  private func holding(_ kind: HostLock.Kind, _ work: (isolated Machine) async throws -> Void) async throws {
    let held = try await lock.acquire(kind)
    defer { lock.release(held) }
    try await work(self)
  }

  private func call(
    _ method: (VZVirtualMachine, @escaping @Sendable (Result<Void, any Error>) -> Void) -> Void
  ) async throws {
    try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Void, any Error>) in
      guard let machine else { return continuation.resume(throwing: HelperError(.invalidState, "the machine is gone")) }
      method(machine) { continuation.resume(with: $0) }
    }
  }

  private func callForError(
    _ method: (VZVirtualMachine, @escaping @Sendable ((any Error)?) -> Void) -> Void
  ) async throws {
    try await call { machine, done in
      method(machine) { error in done(error.map(Result.failure) ?? .success(())) }
    }
  }
}

/// Our own copy of the connection's descriptor, which stays open when the framework's object is gone.
private func takeDescriptor(_ connection: VZVirtioSocketConnection) throws -> Int32 {
  defer { connection.close() }
  let copy = fcntl(connection.fileDescriptor, F_DUPFD_CLOEXEC, 3)
  guard copy >= 0 else { throw systemProblem("no descriptor for the stream") }
  return copy
}
