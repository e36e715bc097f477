/// Tests of the framework's rules and the machine's own states, without a guest: each refusal and the state after it.
/// On a Mac the tests that make a configuration are left out, because a process needs the entitlement for it.
import Dispatch
import Foundation
import HelperProtocol
import Testing
import Virtualization

@testable import VirtualMachines

#if canImport(Glibc)
import Glibc
#endif

private func newFolder() throws -> String {
  let path = "/tmp/firkin-test-\(UUID().uuidString.prefix(8))"
  try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  return path
}

private func order(
  in folder: String, kernel: String = "Image", identity: StartReply? = nil, serialLog: String? = nil,
  withoutDevices: [OptionalDevice]? = nil
) throws -> StartOrder {
  var image = [UInt8](repeating: 0, count: 64)
  image.replaceSubrange(56..<60, with: Array("ARM\u{64}".utf8))
  try Data(image).write(to: URL(fileURLWithPath: folder + "/Image"))
  try Data([1, 2, 3]).write(to: URL(fileURLWithPath: folder + "/vmlinuz"))
  let machine = MachineSpec(
    vcpuCount: 1, memoryMiB: 64, diskMiB: 1, disk: folder + "/disk-\(UUID().uuidString.prefix(4)).img",
    machineIdentifier: identity?.machineIdentifier, macAddress: identity?.macAddress)
  return StartOrder(
    machine: machine, diskSource: folder + "/Image", kernel: "\(folder)/\(kernel)", initramfs: folder + "/Image",
    commandLine: "firkin.vsock=1024", serialLog: serialLog, withoutDevices: withoutDevices)
}

private let mayConfigure = frameworkName == "simulated"

@Test(.enabled(if: mayConfigure)) func onlyDevicesThatCanBeSavedAreThere() throws {
  let folder = try newFolder()
  defer { try? FileManager.default.removeItem(atPath: folder) }
  let wanted = try order(in: folder)
  try cloneFile(wanted.diskSource, to: wanted.machine.disk)
  let built = try buildMachine(wanted)
  #expect(built.configuration.networkDevices.count == 1)
  built.configuration.directorySharingDevices = [VZVirtioFileSystemDeviceConfiguration(tag: "share")]
  #expect(throws: VZError.self) { try built.configuration.validateSaveRestoreSupport() }
}

@Test(.enabled(if: mayConfigure)) func devicesAreLeftOutAndAConsoleIsAddedOnlyWhenAskedFor() throws {
  let folder = try newFolder()
  defer { try? FileManager.default.removeItem(atPath: folder) }
  let plain = try order(in: folder)
  try cloneFile(plain.diskSource, to: plain.machine.disk)
  let usual = try buildMachine(plain).configuration
  #expect(usual.serialPorts.isEmpty && usual.entropyDevices.count == 1 && usual.networkDevices.count == 1)
  let asked = try order(in: folder, serialLog: folder + "/console.log", withoutDevices: [.entropy, .network])
  try cloneFile(asked.diskSource, to: asked.machine.disk)
  let bare = try buildMachine(asked).configuration
  #expect(bare.serialPorts.count == 1 && bare.entropyDevices.isEmpty && bare.networkDevices.isEmpty)
  #expect(access(folder + "/console.log", F_OK) == 0)
}

@Test func theSessionOfTheUserDecides() {
  let unlocked = ConsoleUser(userId: 501, isOnConsole: true, isLocked: false)
  let locked = ConsoleUser(userId: 501, isOnConsole: true, isLocked: true)
  let behind = ConsoleUser(userId: 501, isOnConsole: false, isLocked: false)
  let other = ConsoleUser(userId: 502, isOnConsole: true, isLocked: false)
  #expect(sessionProblem(of: 501, among: [unlocked]) == nil)
  #expect(sessionProblem(of: 501, among: [other, unlocked]) == nil)
  #expect(sessionProblem(of: 501, among: [locked]) == "the screen is locked")
  #expect(sessionProblem(of: 501, among: [behind, other]) == "another user is at the screen")
  #expect(sessionProblem(of: 501, among: [other])?.contains("not logged in") == true)
  #expect(sessionProblem(of: 501, among: [])?.contains("not logged in") == true)
  // A system that does not tell is asked by trying.
  #expect(sessionProblem(of: 501, among: nil) == nil)
}

@Test(.enabled(if: mayConfigure)) func theIdentityIsKept() throws {
  let folder = try newFolder()
  defer { try? FileManager.default.removeItem(atPath: folder) }
  let first = try order(in: folder)
  try cloneFile(first.diskSource, to: first.machine.disk)
  let identity = try buildMachine(first).identity
  let second = try order(in: folder, identity: identity)
  try cloneFile(second.diskSource, to: second.machine.disk)
  #expect(try buildMachine(second).identity == identity)
}

@Test(.enabled(if: mayConfigure)) func aKernelThatIsNoImageIsRefused() async throws {
  let folder = try newFolder()
  defer { try? FileManager.default.removeItem(atPath: folder) }
  let machine = Machine(lock: HostLock(path: folder + "/lock"))
  let wanted = try order(in: folder, kernel: "vmlinuz")
  do {
    _ = try await machine.start(wanted)
    Issue.record("it started")
  } catch let error as HelperError {
    #expect(error.code == .framework)
    #expect(error.domain == "VZErrorDomain" && error.number == 2)
  }
  #expect(await machine.stats().state == .failed)
  try await machine.stop()
  #expect(await machine.stats().state == .stopped)
}

@Test func whatMakesNoSenseInAStateIsRefused() async throws {
  let machine = Machine()
  for work in [{ try await machine.pause() }, { try await machine.resume() }] as [@Sendable () async throws -> Void] {
    await #expect(throws: HelperError.self) { try await work() }
  }
  let save = SaveOrder(stateFile: "/nonexistent/a", diskClone: "/nonexistent/b")
  await #expect(throws: HelperError.self) { try await machine.save(save) }
  #expect(await machine.stats().state == .new)
  try await machine.stop()
  #expect(await machine.stats().state == .stopped)
  await #expect(throws: HelperError.self) { try await machine.connect(toPort: 1024) }
}

/// Every call into the framework is made on the machine's queue. The simulated framework ends the process otherwise, so
/// this test passes by reaching its end.
@Test(.enabled(if: mayConfigure)) func transitionsAreMadeOnTheQueueAndRefusedInTheWrongState() async throws {
  let folder = try newFolder()
  defer { try? FileManager.default.removeItem(atPath: folder) }
  let wanted = try order(in: folder)
  try cloneFile(wanted.diskSource, to: wanted.machine.disk)
  let queue = DispatchQueue(label: "test")
  let refused: (any Error)? = await withCheckedContinuation { continuation in
    queue.async {
      let save = { @Sendable (error: (any Error)?) in continuation.resume(returning: error) }
      do {
        let machine = VZVirtualMachine(configuration: try buildMachine(wanted).configuration, queue: queue)
        machine.saveMachineStateTo(url: URL(fileURLWithPath: folder + "/x"), completionHandler: save)
        if machine.state != .stopped { save(HelperError(.invalidState, "it moved")) }
      } catch {
        save(error)
      }
    }
  }
  #expect((refused as? VZError)?.code == .invalidVirtualMachineStateTransition)
}
