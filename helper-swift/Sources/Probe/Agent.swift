/// The little that the probe says to the guest's agent: that it is to power the guest off. The protocol is in
/// `src/guest-agent/README.md`.
import HelperProtocol
import VirtualMachines

#if canImport(Darwin)
import Darwin
#else
import Glibc
#endif

let agentPort: UInt32 = 1024

/// A connection to the agent, tried until the guest has booted that far.
func dialAgent(_ machine: Machine, within patience: Duration = .seconds(45)) async throws -> Int32 {
  let end = ContinuousClock.now + patience
  while true {
    do throws(HelperError) {
      return try await machine.connect(toPort: agentPort)
    } catch {
      if ContinuousClock.now > end { throw error }
    }
    try await Task.sleep(for: .milliseconds(50))
  }
}

/// Asks the agent to power the guest off within a second.
func sendShutdown(_ descriptor: Int32) throws {
  let resynchronise = [UInt8](repeating: 0, count: 32_800)
  let nonce = [UInt8](repeating: 7, count: 16)
  let hello = frame(type: 1, stream: 0, [0x66, 0x69, 0x72, 0x6b, 0x69, 0x6e, 0, 1] + bytes(UInt16(1)) + nonce)
  let deadline: [UInt8] = [45] + bytes(UInt32(8)) + bytes(UInt64(1000))
  let shutdown = frame(type: 3, stream: 1, bytes(UInt16(18)) + deadline)
  guard writeAll(descriptor, resynchronise + hello + shutdown) else { throw systemProblem("the agent hung up") }
}

private func frame(type: UInt8, stream: UInt32, _ payload: [UInt8]) -> [UInt8] {
  [type, 0, 0, 0] + bytes(stream) + bytes(UInt32(payload.count)) + payload + [0xA5]
}

private func bytes(_ value: some FixedWidthInteger) -> [UInt8] { withUnsafeBytes(of: value.bigEndian) { Array($0) } }
