/// The probe's steps around saved states, for each set of devices, and those that the first set alone is tried with: two
/// machines of one state, a save beside another machine, and a restore after the owner of a machine was killed.
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

/// How long a restore is tried again after another machine of its identity has ended, or its owner was killed.
private let lagLimit = Duration.seconds(60)

extension Probe {
  func saveAndRestore(_ devices: DeviceSet) async {
    let name = devices.name
    guard let saved = await save(devices) else { return }
    let machine = Machine()
    let again = "\(name)-again"
    guard await restore("after stop \(name)", machine, devices, saved, again, .seconds(10)) else { return }
    await callAgent("vsock after restore \(name)", machine)
    if name == DeviceSet.full.name { await besideAnother(devices, saved) }
    await stop("restored \(name)", machine)
    if name == DeviceSet.full.name { await afterOwnerWasKilled(devices, saved) }
  }

  /// Boots a machine, saves it and ends it. The identity of the saved state; nil when a step failed.
  private func save(_ devices: DeviceSet) async -> StartReply? {
    let (name, files, machine) = (devices.name, files, Machine())
    let started = await reporter.step("boot \(name)") {
      (try await machine.start(try files.order(devices, name)), Facts())
    }
    guard let started else { return nil }
    await callAgent("vsock \(name)", machine)
    if !files.hasAgent { await waitForKernel() }
    let paused = await reporter.step("pause \(name)") {
      try await machine.pause()
      return Facts()
    }
    var isSaved = false
    if paused {
      isSaved = await reporter.step("save \(name)") {
        let state = files.state(name)
        _ = try await machine.save(SaveOrder(stateFile: state, diskClone: files.savedDisk(name)))
        return Facts(bytes: fileBytes(state))
      }
    }
    await stop("saved \(name)", machine)
    return isSaved ? started : nil
  }

  private func callAgent(_ name: String, _ machine: Machine) async {
    guard files.hasAgent else { return }
    _ = await reporter.step(name) {
      close(try await dialAgent(machine))
      return Facts()
    }
  }

  private func restore(
    _ name: String, _ machine: Machine, _ devices: DeviceSet, _ saved: StartReply, _ disk: String, _ patience: Duration
  ) async -> Bool {
    let files = files
    return await reporter.step("restore \(name)") {
      _ = try await machine.restore(try files.restoreOrder(devices, saved, disk), patience: patience)
      return Facts(tries: await machine.restoreTries)
    }
  }

  private func besideAnother(_ devices: DeviceSet, _ saved: StartReply) async {
    let (files, twin, other) = (files, Machine(), Machine())
    // Refused where one saved state is one machine. The step says so and does not fail for it.
    _ = await reporter.step("two at once") {
      let order = try files.restoreOrder(devices, saved, "twin")
      do {
        _ = try await twin.restore(order, patience: .zero)
        return Facts(note: "a second machine runs: fan-out works")
      } catch {
        return Facts(note: "refused: \(error)")
      }
    }
    await stop("twin", twin)
    guard await boot("other", other, { try files.order(devices, "other") }) else { return }
    _ = await reporter.step("save beside another machine") {
      if files.hasAgent { close(try await dialAgent(other)) }
      try await other.pause()
      let state = files.state("other")
      _ = try await other.save(SaveOrder(stateFile: state, diskClone: files.savedDisk("other")))
      return Facts(bytes: fileBytes(state))
    }
    await stop("other", other)
  }

  /// How long the machine of a process that was killed keeps its identity.
  private func afterOwnerWasKilled(_ devices: DeviceSet, _ saved: StartReply) async {
    let (files, executable) = (files, executable)
    let owner = await reporter.step("restore in another process") {
      let owned = try files.restoreOrder(devices, saved, "owned")
      try JSONEncoder().encode(owned).write(to: URL(fileURLWithPath: files.folder + "/owner.json"))
      return (try startOwner(executable, files.folder), Facts())
    }
    guard let owner else { return }
    _ = await reporter.step("kill the other process") {
      guard kill(owner, SIGKILL) == 0 else { throw systemProblem("the owner cannot be killed") }
      return Facts()
    }
    let machine = Machine()
    _ = await restore("after the owner was killed", machine, devices, saved, "after-kill", lagLimit)
    await stop("restored after the owner was killed", machine)
  }
}

extension ProbeFiles {
  fileprivate func state(_ name: String) -> String { "\(folder)/\(name)/saved.vzsave" }
  fileprivate func savedDisk(_ name: String) -> String { "\(folder)/\(name)/saved.img" }

  /// The order for another machine of the saved state of `devices`.
  fileprivate func restoreOrder(
    _ devices: DeviceSet, _ saved: StartReply, _ name: String
  ) throws(HelperError) -> RestoreOrder {
    let booted = try order(devices, name, identity: saved)
    let start = StartOrder(
      machine: booted.machine, diskSource: savedDisk(devices.name), kernel: booted.kernel, initramfs: booted.initramfs,
      commandLine: booted.commandLine, serialLog: booted.serialLog, withoutDevices: booted.withoutDevices)
    return RestoreOrder(start: start, stateFile: state(devices.name))
  }
}

/// Starts this program as the owner of a restored machine, and waits until that runs. The owner's pid.
private func startOwner(_ executable: String, _ folder: String) throws -> pid_t {
  let words = [executable, "probe-owner", folder].map { "'" + $0.replacing("'", with: "'\\''") + "'" }
  guard let output = popen("exec \(words.joined(separator: " "))", "r") else { throw systemProblem("no other process") }
  var line = [CChar](repeating: 0, count: 4096)
  let hasLine = fgets(&line, Int32(line.count), output) != nil
  let text = String(decoding: line.prefix { hasLine && $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
  guard let pid = pid_t(text.trimmingNewline) else {
    pclose(output)
    throw HelperError(.inputOutput, "the other process does not restore: \(text.trimmingNewline)")
  }
  // The stream stays open: closing it would wait for the owner's end.
  return pid
}

extension String {
  fileprivate var trimmingNewline: String { String(prefix { $0 != "\n" }) }
}

/// The owner: restores the machine of `FOLDER/owner.json`, prints its pid, and stays. A failure is printed instead.
public func ownMachine(in folder: String) async -> Machine? {
  let machine = Machine()
  do {
    let data = try Data(contentsOf: URL(fileURLWithPath: folder + "/owner.json"))
    _ = try await machine.restore(JSONDecoder().decode(RestoreOrder.self, from: data), patience: lagLimit)
    print(getpid())
  } catch {
    print("\(error)")
    return nil
  }
  fflush(nil)
  return machine
}
