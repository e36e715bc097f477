/// The messages of the control socket. `README.md` is the contract. The daemon's own code for it is in
/// `src/machine/vz/helper-messages.ts`, and the corpus in `test/corpus/helper/` tests both.

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// Raised when a message changes its meaning. A daemon and a helper of different versions refuse each other.
public let protocolVersion = 1

public struct Request: Sendable, Equatable {
  public let id: Int
  public let operation: Operation
}

public enum Operation: Sendable, Equatable {
  case hello(version: Int)
  case start(StartOrder)
  case restore(RestoreOrder)
  case save(SaveOrder)
  case pause, resume, stop, kill, stats, events
}

/// The description of a machine that must be the same at start and at every restore for a saved state to fit.
public struct MachineSpec: Codable, Sendable, Equatable {
  public let vcpuCount: Int
  public let memoryMiB: Int
  /// The guest's disk has at least this size; a smaller image is grown by a hole.
  public let diskMiB: Int
  /// Absolute path of the writable raw image of this machine alone.
  public let disk: String
  /// Base64 of the framework's opaque identifier. Absent at a first start, whose reply names the new one.
  public let machineIdentifier: String?
  public let macAddress: String?

  public init(
    vcpuCount: Int, memoryMiB: Int, diskMiB: Int, disk: String, machineIdentifier: String? = nil,
    macAddress: String? = nil
  ) {
    self.vcpuCount = vcpuCount
    self.memoryMiB = memoryMiB
    self.diskMiB = diskMiB
    self.disk = disk
    self.machineIdentifier = machineIdentifier
    self.macAddress = macAddress
  }
}

/// A device that a machine can do without, where a host cannot save machines that have it.
public enum OptionalDevice: String, Codable, Sendable, CaseIterable {
  case entropy, network
}

public struct StartOrder: Codable, Sendable, Equatable {
  public let machine: MachineSpec
  /// The image of which `machine.disk` becomes a clone. `machine.disk` must not exist.
  public let diskSource: String
  public let kernel: String
  public let initramfs: String
  public let commandLine: String
  /// Absolute path of the file to which the guest's console is appended. Absent: the machine has no serial port.
  public let serialLog: String?
  /// Devices that are left out. A restore leaves out the same ones.
  public let withoutDevices: [OptionalDevice]?

  public init(
    machine: MachineSpec, diskSource: String, kernel: String, initramfs: String, commandLine: String,
    serialLog: String? = nil, withoutDevices: [OptionalDevice]? = nil
  ) {
    self.machine = machine
    self.diskSource = diskSource
    self.kernel = kernel
    self.initramfs = initramfs
    self.commandLine = commandLine
    self.serialLog = serialLog
    self.withoutDevices = withoutDevices
  }
}

public struct RestoreOrder: Codable, Sendable, Equatable {
  public let start: StartOrder
  public let stateFile: String

  public init(start: StartOrder, stateFile: String) {
    self.start = start
    self.stateFile = stateFile
  }
}

public struct SaveOrder: Codable, Sendable, Equatable {
  /// Absolute path of a new file for the machine's state. Absent: only the disk is saved.
  public let stateFile: String?
  /// Absolute path of a new file for the clone of its disk of the same moment.
  public let diskClone: String

  public init(stateFile: String?, diskClone: String) {
    self.stateFile = stateFile
    self.diskClone = diskClone
  }
}

/// Decodes one line.
/// - Throws: ``HelperError`` `bad_message` for a line that is no message, `unknown_operation` with its name,
///   `invalid_argument` for a known operation with wrong contents.
public func decodeRequest(_ line: Data) throws(HelperError) -> Request {
  let envelope: Envelope
  do {
    envelope = try JSONDecoder().decode(Envelope.self, from: line)
  } catch {
    throw HelperError(.badMessage, "not a JSON object with an id and an op")
  }
  guard (0...maxRequestId).contains(envelope.id) else { throw HelperError(.badMessage, "the id is out of range") }
  return Request(id: envelope.id, operation: try decodeOperation(named: envelope.op, line))
}

/// The id in a line that ``decodeRequest(_:)`` refused, so that the refusal can carry it.
public func requestId(of line: Data) -> Int? {
  try? JSONDecoder().decode(Envelope.self, from: line).id
}

/// 2^53 - 1, the largest safe integer of JavaScript.
private let maxRequestId = 9_007_199_254_740_991

private struct Envelope: Decodable {
  let id: Int
  let op: String
}

private struct Hello: Decodable {
  let version: Int
}

private func decodeOperation(named name: String, _ line: Data) throws(HelperError) -> Operation {
  switch name {
  case "hello": .hello(version: try contents(Hello.self, of: name, line).version)
  case "start": .start(try checked(contents(StartOrder.self, of: name, line)))
  case "restore": .restore(try checkedRestore(contents(RestoreOrder.self, of: name, line)))
  case "save": .save(try checkedSave(contents(SaveOrder.self, of: name, line)))
  case "pause": .pause
  case "resume": .resume
  case "stop": .stop
  case "kill": .kill
  case "stats": .stats
  case "events": .events
  default: throw HelperError(.unknownOperation, "this helper has no operation \(name.prefix(64).debugDescription)")
  }
}

private func contents<T: Decodable>(_ type: T.Type, of name: String, _ line: Data) throws(HelperError) -> T {
  do {
    return try JSONDecoder().decode(type, from: line)
  } catch {
    throw HelperError(.invalidArgument, "\(name): \(describe(error))")
  }
}

private func describe(_ error: any Error) -> String {
  let path = { (keys: [any CodingKey]) in keys.map(\.stringValue).joined(separator: ".") }
  return switch error {
  case DecodingError.keyNotFound(let key, let context): "\(path(context.codingPath + [key])) is missing"
  case DecodingError.typeMismatch(_, let context): "\(path(context.codingPath)) has the wrong type"
  case DecodingError.valueNotFound(_, let context): "\(path(context.codingPath)) is null"
  default: "not what it should be"
  }
}

private func checked(_ order: StartOrder) throws(HelperError) -> StartOrder {
  guard order.machine.vcpuCount > 0, order.machine.memoryMiB > 0, order.machine.diskMiB > 0 else {
    throw HelperError(.invalidArgument, "a machine has at least one processor, 1 MiB of memory and 1 MiB of disk")
  }
  let files = [order.machine.disk, order.diskSource, order.kernel, order.initramfs]
  try requireAbsolute(files + [order.serialLog].compactMap { $0 })
  return order
}

private func checkedRestore(_ order: RestoreOrder) throws(HelperError) -> RestoreOrder {
  _ = try checked(order.start)
  guard order.start.machine.machineIdentifier != nil, order.start.machine.macAddress != nil else {
    throw HelperError(.invalidArgument, "a restore needs the machineIdentifier and the macAddress of its save")
  }
  try requireAbsolute([order.stateFile])
  return order
}

private func checkedSave(_ order: SaveOrder) throws(HelperError) -> SaveOrder {
  try requireAbsolute([order.stateFile, order.diskClone].compactMap { $0 })
  return order
}

private func requireAbsolute(_ paths: [String]) throws(HelperError) {
  for path in paths where !path.hasPrefix("/") || path.utf8.contains(0) {
    throw HelperError(.invalidArgument, "\(path.prefix(256).debugDescription) is no absolute path")
  }
}
