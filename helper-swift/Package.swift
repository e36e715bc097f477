// swift-tools-version: 6.0
// On Linux the module `Virtualization` is ours: the used part of Apple's API, in front of a simulated machine.
import PackageDescription

#if os(Linux)
let simulation: [Target] = [.target(name: "Virtualization"), .target(name: "LinuxCalls")]
let framework: [Target.Dependency] = ["Virtualization", "LinuxCalls"]
#else
let simulation: [Target] = []
let framework: [Target.Dependency] = []
#endif

let package = Package(
  name: "helper-swift",
  platforms: [.macOS(.v14)],
  products: [.executable(name: "firkin-vz", targets: ["firkin-vz"])],
  targets: simulation + [
    .target(name: "HelperProtocol"),
    .target(name: "VirtualMachines", dependencies: ["HelperProtocol"] + framework),
    .target(name: "Probe", dependencies: ["HelperProtocol", "VirtualMachines"]),
    .executableTarget(name: "firkin-vz", dependencies: ["HelperProtocol", "VirtualMachines", "Probe"]),
    .testTarget(name: "HelperProtocolTests", dependencies: ["HelperProtocol"]),
    .testTarget(name: "VirtualMachinesTests", dependencies: ["HelperProtocol", "VirtualMachines", "Probe"] + framework),
  ]
)
