/// The replies and events of the helper.

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// Whether this host has an ability now, and if not, why.
public struct Capability: Codable, Sendable, Equatable {
  public let supported: Bool
  public let reason: String?

  public static let yes = Capability(supported: true, reason: nil)
  public static func no(_ reason: String) -> Capability { Capability(supported: false, reason: reason) }
}

/// The host to which a saved state is bound. A restore on another host, or after an update, fails or misbehaves.
public struct HostIdentity: Codable, Sendable, Equatable {
  public let hostId: String
  public let osBuild: String

  public init(hostId: String, osBuild: String) {
    self.hostId = hostId
    self.osBuild = osBuild
  }
}

public enum MachineState: String, Codable, Sendable, Equatable {
  /// No machine was started or restored yet.
  case new
  case starting, running, pausing, paused, resuming, saving, restoring, stopping, stopped, failed

  /// Whether the state ends by itself, with the transition that is under way.
  public var isPassing: Bool { [.starting, .pausing, .resuming, .saving, .restoring, .stopping].contains(self) }
}

public struct HelloReply: Codable, Sendable, Equatable {
  public let version: Int
  public let helperVersion: String
  public let framework: String
  public let pid: Int32
  public let state: MachineState
  public let host: HostIdentity
  public let capabilities: [String: Capability]

  public init(
    helperVersion: String, framework: String, pid: Int32, state: MachineState, host: HostIdentity,
    capabilities: [String: Capability]
  ) {
    version = protocolVersion
    self.helperVersion = helperVersion
    self.framework = framework
    self.pid = pid
    self.state = state
    self.host = host
    self.capabilities = capabilities
  }
}

/// The identity with which a machine was started, a part of every snapshot of it.
public struct StartReply: Codable, Sendable, Equatable {
  public let machineIdentifier: String
  public let macAddress: String

  public init(machineIdentifier: String, macAddress: String) {
    self.machineIdentifier = machineIdentifier
    self.macAddress = macAddress
  }
}

public struct SaveReply: Codable, Sendable, Equatable {
  /// Runs `[first, count]` of blocks of 1 MiB of the disk that hold data. All other blocks are zeros.
  public let dataBlocks: [[Int]]

  public init(dataBlocks: [[Int]]) { self.dataBlocks = dataBlocks }
}

public struct StatsReply: Codable, Sendable, Equatable {
  public let state: MachineState
  /// Memory of this process, bytes.
  public let footprintBytes: Int
  public let streams: Int

  public init(state: MachineState, footprintBytes: Int, streams: Int) {
    self.state = state
    self.footprintBytes = footprintBytes
    self.streams = streams
  }
}

public struct NoReply: Codable, Sendable, Equatable {
  public init() {}
}

/// An event for connections that asked with `events`. The state at that moment comes first.
public struct Event: Codable, Sendable, Equatable {
  public let event: String
  public let state: MachineState
  /// Why the machine failed or stopped by itself.
  public let detail: String?

  public init(state: MachineState, detail: String? = nil) {
    event = "state"
    self.state = state
    self.detail = detail
  }
}

public enum Outcome<Result: Codable & Sendable>: Sendable {
  case success(Result)
  case failure(HelperError)
}

/// One reply as a line with its newline.
public func encodeReply<Result: Codable & Sendable>(id: Int?, _ outcome: Outcome<Result>) throws -> Data {
  switch outcome {
  case .success(let result): try encodeLine(Success(id: id, ok: true, result: result))
  case .failure(let error): try encodeLine(Failure(id: id, ok: false, error: error))
  }
}

public func encodeLine(_ value: some Encodable) throws -> Data {
  let encoder = JSONEncoder()
  encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
  return try encoder.encode(value) + Data([UInt8(ascii: "\n")])
}

private struct Success<Result: Encodable>: Encodable {
  let id: Int?
  let ok: Bool
  let result: Result
}

private struct Failure: Encodable {
  let id: Int?
  let ok: Bool
  let error: HelperError

  /// A refusal of a message without an id has the id `null`, which must not be left out.
  func encode(to encoder: any Encoder) throws {
    var container = encoder.container(keyedBy: Key.self)
    try container.encode(id, forKey: .id)
    try container.encode(ok, forKey: .ok)
    try container.encode(error, forKey: .error)
  }

  private enum Key: String, CodingKey { case id, ok, error }
}
