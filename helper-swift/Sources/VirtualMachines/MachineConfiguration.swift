/// The framework's configuration of a machine, made from its description. It has only devices that can be saved, and
/// the same ones at every start.
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

/// A configuration, and the identity with which it must be restored.
struct BuiltMachine {
  let configuration: VZVirtualMachineConfiguration
  let identity: StartReply
}

/// - Throws: ``HelperError`` `invalid_argument` for an invalid identity, otherwise the framework's error.
public func validateMachine(_ order: StartOrder) throws(HelperError) {
  do {
    _ = try buildMachine(order)
  } catch {
    throw describe(error)
  }
}

func buildMachine(_ order: StartOrder) throws -> BuiltMachine {
  let machine = order.machine
  let platform = VZGenericPlatformConfiguration()
  if let saved = machine.machineIdentifier {
    guard let data = Data(base64Encoded: saved), let identifier = VZGenericMachineIdentifier(dataRepresentation: data)
    else { throw HelperError(.invalidArgument, "the machineIdentifier is none") }
    platform.machineIdentifier = identifier
  }
  let network = VZVirtioNetworkDeviceConfiguration()
  network.macAddress = VZMACAddress.randomLocallyAdministered()
  if let saved = machine.macAddress {
    guard let address = VZMACAddress(string: saved) else { throw HelperError(.invalidArgument, "the macAddress is none") }
    network.macAddress = address
  }

  let loader = VZLinuxBootLoader(kernelURL: URL(fileURLWithPath: order.kernel))
  loader.initialRamdiskURL = URL(fileURLWithPath: order.initramfs)
  loader.commandLine = order.commandLine
  let disk = try VZDiskImageStorageDeviceAttachment(
    url: URL(fileURLWithPath: machine.disk), readOnly: false, cachingMode: .cached, synchronizationMode: .none)

  let configuration = VZVirtualMachineConfiguration()
  configuration.bootLoader = loader
  configuration.platform = platform
  configuration.cpuCount = machine.vcpuCount
  configuration.memorySize = UInt64(machine.memoryMiB) << 20
  configuration.storageDevices = [VZVirtioBlockDeviceConfiguration(attachment: disk)]
  configuration.socketDevices = [VZVirtioSocketDeviceConfiguration()]
  let without = order.withoutDevices ?? []
  if !without.contains(.network) {
    network.attachment = VZFileHandleNetworkDeviceAttachment(fileHandle: try openNetworkToNowhere())
    configuration.networkDevices = [network]
  }
  if !without.contains(.entropy) { configuration.entropyDevices = [VZVirtioEntropyDeviceConfiguration()] }
  // Sandboxes have no serial port unless they are asked to, because a restore may refuse one for its new file.
  if let serialLog = order.serialLog {
    let console = VZVirtioConsoleDeviceSerialPortConfiguration()
    console.attachment = try VZFileSerialPortAttachment(url: URL(fileURLWithPath: serialLog), append: true)
    configuration.serialPorts = [console]
  }
  try configuration.validate()
  try configuration.validateSaveRestoreSupport()
  let identity = StartReply(
    machineIdentifier: platform.machineIdentifier.dataRepresentation.base64EncodedString(),
    macAddress: network.macAddress.string)
  return BuiltMachine(configuration: configuration, identity: identity)
}

/// A network of the machine's own that leads nowhere, because machines restored from one save share their MAC address
/// and must not meet. The guest's packets are read and dropped, so that the framework never waits for room.
private func openNetworkToNowhere() throws(HelperError) -> FileHandle {
  var ends: [Int32] = [-1, -1]
  #if canImport(Darwin)
  let type = SOCK_DGRAM
  #else
  let type = Int32(SOCK_DGRAM.rawValue)
  #endif
  guard socketpair(AF_UNIX, type, 0, &ends) == 0 else { throw systemProblem("no socket pair for the network") }
  for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
  let far = ends[1]
  // The descriptor stays open as long as this process, and so as long as its only machine.
  DispatchQueue(label: "firkin.nowhere").async {
    while readSome(far) != nil {}
    close(far)
  }
  return FileHandle(fileDescriptor: ends[0], closeOnDealloc: true)
}
