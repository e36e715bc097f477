/// The program `firkin-vz FOLDER/` is one helper process for one machine. It serves `FOLDER/control.sock` and
/// `FOLDER/streams.sock` until its machine has ended or it is told to end. It ends its machine before it ends itself.
/// `firkin-vz probe FOLDER KERNEL INITRAMFS DISK` tries what this host can do, without a daemon.
import Dispatch
import HelperProtocol
import Probe
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

let helperVersion = "0.1.0"

func complain(_ message: String) { _ = writeAll(2, "firkin-vz: \(message)\n".utf8) }

func fail(_ message: String) -> Never {
  complain(message)
  exit(1)
}

/// Ends the process then, whatever the framework does not answer.
func endAfter(_ time: DispatchTimeInterval) {
  DispatchQueue.global().asyncAfter(deadline: .now() + time) { exit(1) }
}

/// Ends the machine and the process at SIGTERM. A save that is under way is waited for, and a restore too, because a
/// machine whose process goes in the middle may run on without it. Whoever asked for them gets the reply first.
func endAtSigterm(_ machine: Machine, _ owed: OwedReplies) -> any DispatchSourceSignal {
  signal(SIGTERM, SIG_IGN)
  let source = DispatchSource.makeSignalSource(signal: SIGTERM, queue: .global())
  source.setEventHandler {
    endAfter(.seconds(12))
    Task {
      do {
        try await machine.stop()
      } catch {
        fail("the machine ends with its helper, because it cannot be stopped: \(error)")
      }
      owed.whenPaid { exit(0) }
    }
  }
  source.resume()
  return source
}

/// Runs the probe, or its owner of a second machine.
func runProbe(_ arguments: [String]) -> Never {
  let executable = URL(fileURLWithPath: CommandLine.arguments[0]).path
  Task {
    if arguments.count == 2, arguments[0] == "probe-owner" {
      guard let machine = await ownMachine(in: arguments[1]) else { exit(1) }
      while await machine.condition().0 == .running { try await Task.sleep(for: .seconds(1)) }
      exit(0)
    }
    let bare = arguments.last == "--without-agent"
    guard arguments.count == (bare ? 6 : 5), arguments[1].hasPrefix("/") else { fail(usage) }
    let files = ProbeFiles(
      folder: arguments[1], kernel: arguments[2], initramfs: arguments[3], disk: arguments[4], hasAgent: !bare)
    await Probe(files, executable: executable) { line in _ = writeAll(1, "\(line)\n".utf8) }.run()
    exit(0)
  }
  dispatchMain()
}

let usage = "usage: firkin-vz FOLDER/ | --version | probe /FOLDER KERNEL INITRAMFS DISK [--without-agent]"

/// Answers a request by way of the machine. Ends the process after `stop` and on `kill`.
struct Handler: ControlHandler {
  let machine: Machine
  let owed: OwedReplies

  func reply(to request: Request) async -> Data {
    switch request.operation {
    case .hello: await answer(request) { await machine.hello(helperVersion: helperVersion) }
    case .start(let order): await answer(request) { try await machine.start(order) }
    case .restore(let order): await answer(request) { try await machine.restore(order) }
    case .save(let order): await answer(request) { try await machine.save(order) }
    case .pause: await done(request) { try await machine.pause() }
    case .resume: await done(request) { try await machine.resume() }
    case .stats: await answer(request) { await machine.stats() }
    case .events: await done(request) {}
    case .stop:
      await done(request) {
        try await machine.stop()
        // This reply goes first, too. A daemon that waits for the end waits for the process.
        endAfter(.seconds(12))
        owed.whenPaid { exit(0) }
      }
    case .kill: await endNow()
    }
  }

  /// A machine that is in the middle of something is not waited for.
  private func endNow() async -> Never {
    endAfter(.seconds(2))
    do {
      try await machine.stop(patience: .zero)
    } catch {
      complain("the machine ends with its helper, because it cannot be stopped: \(error)")
    }
    exit(0)
  }

  func events() async -> AsyncStream<Event> { await machine.events() }

  private func done(_ request: Request, _ work: () async throws -> Void) async -> Data {
    await answer(request) {
      try await work()
      return NoReply()
    }
  }

  private func answer<Result: Codable & Sendable>(_ request: Request, _ work: () async throws -> Result) async -> Data {
    let outcome: Outcome<Result>
    do {
      outcome = .success(try await work())
    } catch {
      outcome = .failure(error as? HelperError ?? HelperError(.inputOutput, "\(error)"))
    }
    do {
      return try encodeReply(id: request.id, outcome)
    } catch {
      fail("a reply cannot be encoded: \(error)")
    }
  }
}

signal(SIGPIPE, SIG_IGN)
// The daemon that started this process may go, and its terminal too. The machine stays.
signal(SIGHUP, SIG_IGN)
#if canImport(Darwin)
// The framework's words are English in every log. No decision depends on them.
UserDefaults.standard.setVolatileDomain(["AppleLanguages": ["en"]], forName: UserDefaults.argumentDomain)
#endif
if CommandLine.arguments.dropFirst().first?.hasPrefix("probe") == true { runProbe(Array(CommandLine.arguments.dropFirst())) }
guard CommandLine.arguments.count == 2 else { fail(usage) }
let argument = CommandLine.arguments[1]
if argument == "--version" {
  print("firkin-vz \(helperVersion), protocol \(protocolVersion), \(frameworkName)")
  exit(0)
}

// The daemon finds its helpers by this argument, which is a prefix of the paths in the folder.
let folder = argument.hasSuffix("/") ? String(argument.dropLast()) : argument
let streams = StreamCount()
let machine = Machine(streams: streams)
let owed = OwedReplies()
let sigterm = endAtSigterm(machine, owed)
do throws(HelperError) {
  // The control socket comes last, so that a daemon that can connect to it finds everything ready.
  let streamListener = try listen(at: folder + "/streams.sock")
  DispatchQueue(label: "firkin.streams").async { serveStreams(streamListener, machine, streams) }
  let controlListener = try listen(at: folder + "/control.sock")
  DispatchQueue(label: "firkin.control").async { serveControl(controlListener, Handler(machine: machine, owed: owed), owed) }
} catch {
  fail(error.message)
}
dispatchMain()
