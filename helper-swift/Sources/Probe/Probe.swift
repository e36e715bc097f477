/// The probe tries on this host everything that the engine needs of Apple's framework, and tells of each step how long
/// it took and what the framework said. It needs nothing of the daemon. `README.md` has the list of its steps.
import HelperProtocol
import VirtualMachines

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

/// What the probe boots, and where. The folder is for its files and must exist.
public struct ProbeFiles: Sendable {
  let folder: String
  let kernel: String
  let initramfs: String
  let disk: String
  /// Whether the initramfs has the guest agent. Without it the kernel alone runs, and nobody answers.
  let hasAgent: Bool

  public init(folder: String, kernel: String, initramfs: String, disk: String, hasAgent: Bool = true) {
    self.folder = folder
    self.kernel = kernel
    self.initramfs = initramfs
    self.disk = disk
    self.hasAgent = hasAgent
  }

  /// The order for the machine of that name, which has a folder of its own.
  func order(
    _ devices: DeviceSet, _ name: String, identity: StartReply? = nil, panics: Bool = false
  ) throws(HelperError) -> StartOrder {
    guard mkdir("\(folder)/\(name)", 0o700) == 0 || errno == EEXIST else { throw systemProblem("no folder for \(name)") }
    let machine = MachineSpec(
      vcpuCount: 1, memoryMiB: 256, diskMiB: 1, disk: "\(folder)/\(name)/disk.img",
      machineIdentifier: identity?.machineIdentifier, macAddress: identity?.macAddress)
    // Without an agent the kernel finds nothing to run, and is to stand still then.
    let base = "console=hvc0 panic=\(hasAgent || panics ? -1 : 0)"
    // Without a first program the kernel panics, and resets the machine at once.
    let ending = panics ? " rdinit=/nonexistent root=/dev/nonexistent" : ""
    return StartOrder(
      machine: machine, diskSource: disk, kernel: kernel, initramfs: initramfs,
      commandLine: "\(base) firkin.vsock=\(agentPort)\(ending)",
      serialLog: devices.hasConsole || panics ? console(name) : nil, withoutDevices: devices.without)
  }

  func console(_ name: String) -> String { "\(folder)/\(name)/console.log" }
}

/// A set of devices to save and restore with.
struct DeviceSet: Sendable {
  let name: String
  let without: [OptionalDevice]
  var hasConsole = false

  static let full = DeviceSet(name: "full", without: [])
  static let all = [
    full,
    DeviceSet(name: "without-entropy", without: [.entropy]),
    DeviceSet(name: "without-network", without: [.network]),
    DeviceSet(name: "without-both", without: [.entropy, .network]),
    DeviceSet(name: "with-console", without: [], hasConsole: true),
  ]
}

public struct Probe: Sendable {
  let files: ProbeFiles
  /// This program, of which a copy is started and killed.
  let executable: String
  let reporter: Reporter

  /// - Parameter limit: of one step
  public init(
    _ files: ProbeFiles, executable: String, limit: Duration = .seconds(90), emit: @escaping @Sendable (String) -> Void
  ) {
    self.files = files
    self.executable = executable
    reporter = Reporter(limit: limit, emit: emit)
  }

  /// Runs every step. The last row is `end`.
  public func run() async {
    _ = await reporter.step("host") {
      let host = hostIdentity()
      let abilities = capabilities().sorted { $0.key < $1.key }.map { "\($0.key): \($0.value.reason ?? "yes")" }
      return Facts(note: ([frameworkName, host.osBuild] + abilities).joined(separator: "; "))
    }
    for devices in DeviceSet.all { await validate(devices) }
    await bootWithConsole()
    await resetByPanic()
    for devices in DeviceSet.all { await saveAndRestore(devices) }
    _ = await reporter.step("end") { Facts() }
  }

  private func validate(_ devices: DeviceSet) async {
    let files = files
    _ = await reporter.step("validate \(devices.name)") {
      let order = try files.order(devices, "validate-\(devices.name)")
      try cloneFile(order.diskSource, to: order.machine.disk)
      try validateMachine(order)
      return Facts()
    }
  }

  /// The first boot, whose console is kept, and the end by the guest itself.
  private func bootWithConsole() async {
    let (files, machine) = (files, Machine())
    let devices = DeviceSet(name: "console", without: [], hasConsole: true)
    guard await boot("console", machine, { try files.order(devices, "console") }) else { return }
    _ = await reporter.step("vsock before the guest listens") {
      do throws(HelperError) {
        close(try await machine.connect(toPort: agentPort + 1))
        return Facts(note: "a port without a listener was accepted")
      } catch {
        return Facts(note: "refused: \(error)")
      }
    }
    let agent = files.hasAgent ? await reporter.step("vsock to the agent") { (try await dialAgent(machine), Facts()) } : nil
    if !files.hasAgent { await waitForKernel() }
    _ = await reporter.step("console") {
      let size = fileBytes(files.console("console"))
      return Facts(bytes: size, note: size == 0 ? "nothing was written to the console" : nil)
    }
    if let agent {
      _ = await reporter.step("power-off by the guest") {
        try sendShutdown(agent)
        return Facts(note: try await ended(machine, within: .seconds(20)))
      }
      close(agent)
    }
    await stop("console", machine)
  }

  /// Whether a guest that resets itself is an end for the framework, or boots again in the same machine.
  private func resetByPanic() async {
    let (files, machine) = (files, Machine())
    guard await boot("panic", machine, { try files.order(.full, "panic", panics: true) }) else { return }
    _ = await reporter.step("reset by the guest") {
      do {
        return Facts(note: "an end: \(try await ended(machine, within: .seconds(10)))")
      } catch {
        let boots = occurrences(of: "Kernel panic", in: files.console("panic"))
        return Facts(bytes: fileBytes(files.console("panic")), note: "no end within 10 s; the console has \(boots) panics")
      }
    }
    await stop("panic", machine)
  }

  /// Gives a kernel without an agent the time to boot, of which it says nothing.
  func waitForKernel() async {
    _ = await reporter.step("the kernel boots") {
      try await Task.sleep(for: .seconds(3))
      return Facts()
    }
  }

  func boot(_ name: String, _ machine: Machine, _ order: @escaping @Sendable () throws -> StartOrder) async -> Bool {
    await reporter.step("boot \(name)") {
      _ = try await machine.start(try order())
      return Facts()
    }
  }

  func stop(_ name: String, _ machine: Machine) async {
    _ = await reporter.step("stop \(name)") {
      try await machine.stop()
      return Facts()
    }
  }
}

/// Why the machine ended. Throws when it has not.
private func ended(_ machine: Machine, within patience: Duration) async throws -> String {
  let end = ContinuousClock.now + patience
  while ContinuousClock.now < end {
    let (state, detail) = await machine.condition()
    if state == .stopped || state == .failed { return detail ?? state.rawValue }
    try await Task.sleep(for: .milliseconds(50))
  }
  throw HelperError(.inputOutput, "the machine has not ended within \(patience)")
}

func fileBytes(_ path: String) -> Int {
  var info = stat()
  return stat(path, &info) == 0 ? Int(info.st_size) : 0
}

private func occurrences(of text: String, in path: String) -> Int {
  guard let data = try? Data(contentsOf: URL(fileURLWithPath: path)) else { return 0 }
  return String(decoding: data, as: UTF8.self).split(separator: "\n").filter { $0.contains(text) }.count
}
