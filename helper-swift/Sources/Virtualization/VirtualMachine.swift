/// The simulated machine has Apple's states and rules in front of a ``SimulatedGuest``.
import Dispatch
import FoundationEssentials
import Glibc

public protocol VZVirtualMachineDelegate: AnyObject {
  func guestDidStop(_ virtualMachine: VZVirtualMachine)
  func virtualMachine(_ virtualMachine: VZVirtualMachine, didStopWithError error: any Error)
}

open class VZSocketDevice: NSObject {}

/// Every call runs on the queue with which the machine was made, as with Apple. A call on another queue is a bug and
/// ends the process. Like Apple's class it is not Sendable, and its completion handlers need not be, so that the
/// compiler finds the same errors as on a Mac. Work off the queue reaches the machine through a ``Handle``.
public final class VZVirtualMachine: NSObject {
  public enum State: Int, Sendable {
    case stopped = 0, running, paused, error, starting, pausing, resuming, stopping, saving, restoring
  }

  public static var isSupported: Bool { true }

  public weak var delegate: (any VZVirtualMachineDelegate)?
  public private(set) var socketDevices: [VZSocketDevice] = []
  private let configuration: VZVirtualMachineConfiguration
  private let queue: DispatchQueue
  private let queueKey = DispatchSpecificKey<Bool>()
  private let host = SimulatedHost.current
  private var guest: SimulatedGuest?
  private var claim: Int32?
  private var currentState = State.stopped

  public init(configuration: VZVirtualMachineConfiguration, queue: DispatchQueue) {
    self.configuration = configuration
    self.queue = queue
    super.init()
    queue.setSpecific(key: queueKey, value: true)
    socketDevices = configuration.socketDevices.map { _ in VZVirtioSocketDevice(self) }
  }

  public var state: State {
    requireQueue()
    return currentState
  }

  public func start(completionHandler: @escaping (Result<Void, any Error>) -> Void) {
    move(from: [.stopped, .error], over: .starting, to: .running, completionHandler) {
      try self.host.refuse("start", .internalError)
      try self.claimIdentity(.internalError)
      self.guest = try SimulatedGuest.boot(self.configuration, self.host, memory: nil, claim: self.claim)
      self.watchGuest()
    }
  }

  public func pause(completionHandler: @escaping (Result<Void, any Error>) -> Void) {
    move(from: [.running], over: .pausing, to: .paused, completionHandler) {
      try self.host.refuse("pause", .internalError)
      try self.guest?.freeze()
    }
  }

  public func resume(completionHandler: @escaping (Result<Void, any Error>) -> Void) {
    move(from: [.paused], over: .resuming, to: .running, completionHandler) {
      try self.host.refuse("resume", .internalError)
      try self.guest?.thaw()
    }
  }

  public func stop(completionHandler: @escaping ((any Error)?) -> Void) {
    move(from: [.running, .paused, .error], over: .stopping, to: .stopped, withError(completionHandler)) {
      try self.host.refuse("stop", .internalError)
      self.endGuest()
    }
  }

  public func saveMachineStateTo(url saveFileURL: URL, completionHandler: @escaping ((any Error)?) -> Void) {
    move(from: [.paused], over: .saving, to: .paused, withError(completionHandler)) {
      try self.configuration.validateSaveRestoreSupport()
      try self.host.whileUnlocked(.save) {
        try self.host.refuse("save", .save)
        usleep(self.host.saveMs * 1000)
        guard access(saveFileURL.path, F_OK) != 0 else { throw VZError(.save, "The file exists.") }
        try self.guest?.save(to: saveFileURL.path, fingerprint: self.configuration.fingerprint)
      }
    }
  }

  public func restoreMachineStateFrom(url saveFileURL: URL, completionHandler: @escaping ((any Error)?) -> Void) {
    move(from: [.stopped], over: .restoring, to: .paused, withError(completionHandler)) {
      try self.host.whileUnlocked(.restore) {
        try self.host.refuse("restore", .restore)
        try self.configuration.refuseDevices(self.host)
        let saved = try SavedGuest.read(saveFileURL.path)
        guard saved.fingerprint == self.configuration.fingerprint else { throw VZError(.restore, "Ungültiges Argument.") }
        try self.claimIdentity(.restore)
        self.guest = try SimulatedGuest.boot(self.configuration, self.host, memory: saved, claim: self.claim)
        self.watchGuest()
        try self.guest?.freeze()
      }
    }
  }

  /// The agent's connection for a port. The connection before it ends.
  func connect(toPort port: UInt32, _ done: @escaping (Result<Int32, any Error>) -> Void) {
    requireQueue()
    guard currentState == .running || currentState == .paused, let guest else {
      return done(.failure(VZError(.invalidVirtualMachineState, "The virtual machine does not run.")))
    }
    let (handle, done) = (Handle(self), Handle(done))
    DispatchQueue.global().async {
      let result = Result {
        try handle.value.host.refuse("connect", .internalError)
        return try guest.connect(toPort: port)
      }
      handle.value.queue.async { done.value(result) }
    }
  }

  private func requireQueue() {
    precondition(
      DispatchQueue.getSpecific(key: queueKey) == true, "a virtual machine is used on a queue that is not its own")
  }

  /// One transition: refused in the wrong state, carried out off the queue, completed on it. A failure changes nothing.
  private func move(
    from allowed: Set<State>, over transient: State, to final: State,
    _ done: @escaping (Result<Void, any Error>) -> Void, _ work: @escaping () throws -> Void
  ) {
    requireQueue()
    let before = currentState
    guard allowed.contains(before) else {
      return done(.failure(VZError(.invalidVirtualMachineStateTransition, "Invalid transition from \(before) over \(transient).")))
    }
    currentState = transient
    let (handle, work, done) = (Handle(self), Handle(work), Handle(done))
    DispatchQueue.global().async {
      let result = Result { try work.value() }
      handle.value.queue.async { handle.value.arrive(at: final, before, result, done.value) }
    }
  }

  private func arrive(
    at final: State, _ before: State, _ result: Result<Void, any Error>, _ done: (Result<Void, any Error>) -> Void
  ) {
    if case .failure = result {
      if before == .stopped { endGuest() }
      currentState = before
    } else {
      currentState = final
    }
    done(result)
  }

  private func withError(
    _ done: @escaping ((any Error)?) -> Void
  ) -> (Result<Void, any Error>) -> Void {
    { result in
      if case .failure(let error) = result { done(error) } else { done(nil) }
    }
  }

  /// Without fan-out no two machines of one identity run at once. The guest's supervisor has the claim too, and keeps
  /// it for a while after the end.
  private func claimIdentity(_ code: VZError.Code) throws {
    guard !host.fanOut, let platform = configuration.platform as? VZGenericPlatformConfiguration else { return }
    claim = try host.claim(platform.machineIdentifier.dataRepresentation, code)
  }

  private func watchGuest() {
    let handle = WeakHandle(self)
    guest?.onExit { status in
      guard let machine = handle.value else { return }
      let handle = Handle(machine)
      machine.queue.async { handle.value.guestEnded(status) }
    }
  }

  private func guestEnded(_ status: Int32) {
    guard [.running, .paused].contains(currentState) else { return }
    if status == SimulatedGuest.resetStatus { return reset() }
    currentState = .stopped
    endGuest()
    if status == 0 { delegate?.guestDidStop(self) }
    else { delegate?.virtualMachine(self, didStopWithError: VZError(.internalError, "The guest ended with \(status).")) }
  }

  /// A guest that resets itself boots anew in the same machine. The delegate hears nothing of it.
  private func reset() {
    guest?.end()
    do {
      guest = try SimulatedGuest.boot(configuration, host, memory: nil, claim: claim)
      watchGuest()
    } catch {
      currentState = .error
      endGuest()
      delegate?.virtualMachine(self, didStopWithError: error)
    }
  }

  private func endGuest() {
    guest?.end()
    guest = nil
    if let claim { close(claim) }
    claim = nil
  }
}

/// The handle carries a value of the queue over to another thread and back.
private struct Handle<Value>: @unchecked Sendable {
  let value: Value
  init(_ value: Value) { self.value = value }
}

private struct WeakHandle: @unchecked Sendable {
  private(set) weak var value: VZVirtualMachine?
  init(_ value: VZVirtualMachine) { self.value = value }
}

public final class VZVirtioSocketConnection: NSObject {
  public private(set) var fileDescriptor: Int32

  init(_ descriptor: Int32) { fileDescriptor = descriptor }

  public func close() {
    if fileDescriptor >= 0 { Glibc.close(fileDescriptor) }
    fileDescriptor = -1
  }

  deinit { close() }
}

public final class VZVirtioSocketDevice: VZSocketDevice {
  private weak var machine: VZVirtualMachine?

  init(_ machine: VZVirtualMachine) { self.machine = machine }

  public func connect(
    toPort port: UInt32, completionHandler: @escaping (Result<VZVirtioSocketConnection, any Error>) -> Void
  ) {
    guard let machine else { return completionHandler(.failure(VZError(.invalidVirtualMachineState, "It is gone."))) }
    machine.connect(toPort: port) { completionHandler($0.map(VZVirtioSocketConnection.init)) }
  }
}
