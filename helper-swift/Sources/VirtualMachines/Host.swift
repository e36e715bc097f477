/// The host of saves: its identity, and whether machines can be saved and restored on it now.
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

/// The name of the framework that this helper was built with, as in the manifest of a snapshot.
public var frameworkName: String {
  #if canImport(Darwin)
  "Virtualization.framework"
  #else
  "simulated"
  #endif
}

public func hostIdentity() -> HostIdentity {
  #if canImport(Darwin)
  HostIdentity(hostId: hardwareId(), osBuild: systemText("kern.osversion"))
  #else
  HostIdentity(hostId: firstLine("/etc/machine-id"), osBuild: firstLine("/proc/sys/kernel/osrelease"))
  #endif
}

public func capabilities() -> [String: Capability] {
  let memory = sessionProblem().map(Capability.no) ?? .yes
  return [
    "machine": VZVirtualMachine.isSupported ? .yes : .no("this Mac, or this process without its entitlement, runs no machines"),
    "memorySnapshot": memory,
    "pause": .yes,
    "network": .no("the machine's network device leads nowhere yet"),
  ]
}

/// Memory of this process in bytes, without the guest's, which the framework keeps in a process of its own.
public func footprintBytes() -> Int {
  #if canImport(Darwin)
  var info = rusage_info_v2()
  let result = withUnsafeMutablePointer(to: &info) {
    $0.withMemoryRebound(to: rusage_info_t?.self, capacity: 1) { proc_pid_rusage(getpid(), RUSAGE_INFO_V2, $0) }
  }
  return result == 0 ? Int(info.ri_phys_footprint) : 0
  #else
  let pages = firstLine("/proc/self/statm").split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0
  return pages * Int(sysconf(Int32(_SC_PAGESIZE)))
  #endif
}

#if canImport(Darwin)
/// The identity of this Mac under every version of its system. `kern.uuid` would name the build of the kernel.
private func hardwareId() -> String {
  var bytes = [UInt8](repeating: 0, count: 16)
  var patience = timespec(tv_sec: 1, tv_nsec: 0)
  guard gethostuuid(&bytes, &patience) == 0 else { return "" }
  return bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
}

private func systemText(_ name: String) -> String {
  var size = 0
  guard sysctlbyname(name, nil, &size, nil, 0) == 0 else { return "" }
  var text = [CChar](repeating: 0, count: size)
  guard sysctlbyname(name, &text, &size, nil, 0) == 0 else { return "" }
  return String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
}
#else
private func firstLine(_ path: String) -> String {
  let text = (try? String(contentsOfFile: path, encoding: .utf8)) ?? ""
  return String(text.prefix { $0 != "\n" })
}
#endif
