/// The part of Apple's Virtualization framework that the helper uses, with the same names and signatures, on Linux
/// only. On macOS `import Virtualization` means Apple's. The rules that Apple documents are enforced; see README.md.
import FoundationEssentials
import Glibc

/// This class is Foundation's, which the Linux build leaves out for its size.
open class NSObject {
  public init() {}
}

public final class FileHandle {
  public let fileDescriptor: Int32
  private let closeOnDealloc: Bool

  public init(fileDescriptor: Int32, closeOnDealloc: Bool) {
    self.fileDescriptor = fileDescriptor
    self.closeOnDealloc = closeOnDealloc
  }

  deinit {
    if closeOnDealloc { close(fileDescriptor) }
  }
}

public struct VZError: Error {
  public enum Code: Int, Sendable {
    case internalError = 1
    case invalidVirtualMachineConfiguration = 2
    case invalidVirtualMachineState = 3
    case invalidVirtualMachineStateTransition = 4
    case invalidDiskImage = 5
    case virtualMachineLimitExceeded = 6
    case save = 11
    case restore = 12
  }

  public static let errorDomain = "VZErrorDomain"
  public let code: Code
  public let localizedDescription: String

  init(_ code: Code, _ description: String) {
    self.code = code
    localizedDescription = description
  }
}

open class VZBootLoader: NSObject {}

public final class VZLinuxBootLoader: VZBootLoader {
  public let kernelURL: URL
  public var initialRamdiskURL: URL?
  public var commandLine = ""

  public init(kernelURL: URL) { self.kernelURL = kernelURL }
}

open class VZPlatformConfiguration: NSObject {}

public final class VZGenericPlatformConfiguration: VZPlatformConfiguration {
  public var machineIdentifier = VZGenericMachineIdentifier()
}

public final class VZGenericMachineIdentifier: NSObject {
  public let dataRepresentation: Data

  public override init() { dataRepresentation = Data("machine-\(UUID().uuidString)".utf8) }

  public init?(dataRepresentation: Data) {
    guard dataRepresentation.starts(with: "machine-".utf8) else { return nil }
    self.dataRepresentation = dataRepresentation
  }
}

open class VZStorageDeviceAttachment: NSObject {}

public enum VZDiskImageCachingMode: Int { case automatic = 0, uncached, cached }
public enum VZDiskImageSynchronizationMode: Int { case full = 1, fsync, none }

public final class VZDiskImageStorageDeviceAttachment: VZStorageDeviceAttachment {
  public let url: URL
  public let isReadOnly: Bool

  public init(
    url: URL, readOnly: Bool, cachingMode: VZDiskImageCachingMode, synchronizationMode: VZDiskImageSynchronizationMode
  ) throws {
    guard access(url.path, readOnly ? R_OK : R_OK | W_OK) == 0 else {
      throw VZError(.invalidDiskImage, "The disk image \(url.path) cannot be opened.")
    }
    self.url = url
    isReadOnly = readOnly
  }
}

open class VZStorageDeviceConfiguration: NSObject {
  public let attachment: VZStorageDeviceAttachment
  init(attached: VZStorageDeviceAttachment) { attachment = attached }
}

public final class VZVirtioBlockDeviceConfiguration: VZStorageDeviceConfiguration {
  public init(attachment: VZStorageDeviceAttachment) { super.init(attached: attachment) }
}

open class VZNetworkDeviceAttachment: NSObject {}

public final class VZFileHandleNetworkDeviceAttachment: VZNetworkDeviceAttachment {
  public let fileHandle: FileHandle
  public init(fileHandle: FileHandle) { self.fileHandle = fileHandle }
}

public final class VZMACAddress: NSObject {
  public let string: String

  public init?(string: String) {
    let parts = string.split(separator: ":", omittingEmptySubsequences: false)
    guard parts.count == 6, parts.allSatisfy({ $0.count == 2 && UInt8($0, radix: 16) != nil }) else { return nil }
    self.string = string.lowercased()
  }

  private init(random first: UInt8) {
    let bytes = [first] + (0..<5).map { _ in UInt8.random(in: 0...255) }
    string = bytes.map { $0 < 16 ? "0" + String($0, radix: 16) : String($0, radix: 16) }.joined(separator: ":")
  }

  public static func randomLocallyAdministered() -> VZMACAddress { VZMACAddress(random: 0x5a) }
}

open class VZNetworkDeviceConfiguration: NSObject {
  public var macAddress = VZMACAddress.randomLocallyAdministered()
  public var attachment: VZNetworkDeviceAttachment?
}

public final class VZVirtioNetworkDeviceConfiguration: VZNetworkDeviceConfiguration {}
open class VZSocketDeviceConfiguration: NSObject {}
public final class VZVirtioSocketDeviceConfiguration: VZSocketDeviceConfiguration {}
open class VZEntropyDeviceConfiguration: NSObject {}
public final class VZVirtioEntropyDeviceConfiguration: VZEntropyDeviceConfiguration {}
open class VZSerialPortAttachment: NSObject {}

public final class VZFileSerialPortAttachment: VZSerialPortAttachment {
  public let url: URL

  public init(url: URL, append shouldAppend: Bool) throws {
    let descriptor = open(url.path, O_WRONLY | O_CREAT | O_CLOEXEC | (shouldAppend ? O_APPEND : O_TRUNC), 0o600)
    guard descriptor >= 0 else { throw VZError(.invalidVirtualMachineConfiguration, "The file \(url.path) cannot be opened.") }
    close(descriptor)
    self.url = url
  }
}

open class VZSerialPortConfiguration: NSObject {
  public var attachment: VZSerialPortAttachment?
}

public final class VZVirtioConsoleDeviceSerialPortConfiguration: VZSerialPortConfiguration {}
open class VZMemoryBalloonDeviceConfiguration: NSObject {}
public final class VZVirtioTraditionalMemoryBalloonDeviceConfiguration: VZMemoryBalloonDeviceConfiguration {}
open class VZDirectorySharingDeviceConfiguration: NSObject {}
public final class VZVirtioFileSystemDeviceConfiguration: VZDirectorySharingDeviceConfiguration {
  public init(tag: String) {}
}

public final class VZVirtualMachineConfiguration: NSObject {
  public static let minimumAllowedCPUCount = 1
  public static let maximumAllowedCPUCount = 64
  public static let minimumAllowedMemorySize: UInt64 = 4 << 20
  public static let maximumAllowedMemorySize: UInt64 = 1 << 40

  public var bootLoader: VZBootLoader?
  public var platform: VZPlatformConfiguration = VZGenericPlatformConfiguration()
  public var cpuCount = 1
  public var memorySize: UInt64 = 0
  public var storageDevices: [VZStorageDeviceConfiguration] = []
  public var networkDevices: [VZNetworkDeviceConfiguration] = []
  public var socketDevices: [VZSocketDeviceConfiguration] = []
  public var entropyDevices: [VZEntropyDeviceConfiguration] = []
  public var serialPorts: [VZSerialPortConfiguration] = []
  public var memoryBalloonDevices: [VZMemoryBalloonDeviceConfiguration] = []
  public var directorySharingDevices: [VZDirectorySharingDeviceConfiguration] = []

  public func validate() throws {
    try SimulatedHost.current.refuse("validate", .invalidVirtualMachineConfiguration)
    let problems: [(Bool, String)] = [
      (bootLoader == nil, "The configuration has no boot loader."),
      (!(Self.minimumAllowedCPUCount...Self.maximumAllowedCPUCount).contains(cpuCount), "The CPU count is out of range."),
      (
        !(Self.minimumAllowedMemorySize...Self.maximumAllowedMemorySize).contains(memorySize)
          || memorySize % (1 << 20) != 0, "The memory size is out of range or no multiple of 1 MiB."
      ),
      (socketDevices.count > 1, "There can be at most one socket device."),
      (!kernelIsImage, "The kernel is not an uncompressed arm64 Image."),
    ]
    for (found, description) in problems where found {
      throw VZError(.invalidVirtualMachineConfiguration, description)
    }
  }

  /// A pass is necessary and not sufficient, as with Apple, because only the save itself notices a locked host.
  public func validateSaveRestoreSupport() throws {
    try validate()
    try SimulatedHost.current.refuse("validateSaveRestore", .invalidVirtualMachineConfiguration)
    guard directorySharingDevices.isEmpty else {
      throw VZError(.invalidVirtualMachineConfiguration, "A directory sharing device cannot be saved.")
    }
  }

  /// Refuses a restore of a machine with devices that this host restores nothing with.
  func refuseDevices(_ host: SimulatedHost) throws {
    let present = [("entropy", !entropyDevices.isEmpty), ("network", !networkDevices.isEmpty), ("serial", !serialPorts.isEmpty)]
    for (name, isThere) in present where isThere { try host.refuse(name, .restore) }
  }

  /// The file of the console, if there is one.
  var consolePath: String? {
    serialPorts.lazy.compactMap { ($0.attachment as? VZFileSerialPortAttachment)?.url.path }.first
  }

  /// `ARM\x64` at offset 56 of the header.
  private var kernelIsImage: Bool {
    guard let loader = bootLoader as? VZLinuxBootLoader else { return true }
    let descriptor = open(loader.kernelURL.path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return false }
    defer { close(descriptor) }
    var magic = [UInt8](repeating: 0, count: 4)
    return pread(descriptor, &magic, 4, 56) == 4 && magic == Array("ARM\u{64}".utf8)
  }

  /// The configuration that a saved state must find again: all of it but the files' paths.
  var fingerprint: String {
    let identifier = (platform as? VZGenericPlatformConfiguration)?.machineIdentifier.dataRepresentation
    let devices: [[NSObject]] = [
      storageDevices, networkDevices, socketDevices, entropyDevices, serialPorts, memoryBalloonDevices,
    ]
    let names = devices.flatMap { $0.map { String(describing: type(of: $0)) } }
    let addresses = networkDevices.map(\.macAddress.string)
    return ([identifier?.base64EncodedString() ?? "", "\(cpuCount)", "\(memorySize)"] + addresses + names).joined(separator: " ")
  }
}
