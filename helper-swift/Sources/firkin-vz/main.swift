/// The program `firkin-vz FOLDER/` is one helper process for one machine. It serves `FOLDER/control.sock` and
/// `FOLDER/streams.sock` until its machine has ended or it is told to end. The machine ends with it.
import Dispatch
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

let helperVersion = "0.1.0"

func fail(_ message: String) -> Never {
  _ = writeAll(2, "firkin-vz: \(message)\n".utf8)
  exit(1)
}

/// Answers a request by way of the machine. Ends the process after `stop` and on `kill`.
struct Handler: ControlHandler {
  let machine: Machine

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
        // The reply goes first. A daemon that waits for the end waits for the process.
        DispatchQueue.global().asyncAfter(deadline: .now() + .milliseconds(20)) { exit(0) }
      }
    case .kill: exit(0)
    }
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
guard CommandLine.arguments.count == 2 else { fail("usage: firkin-vz FOLDER/ | --version") }
let argument = CommandLine.arguments[1]
if argument == "--version" {
  print("firkin-vz \(helperVersion), protocol \(protocolVersion), \(frameworkName)")
  exit(0)
}

// The daemon finds its helpers by this argument, which is a prefix of the paths in the folder.
let folder = argument.hasSuffix("/") ? String(argument.dropLast()) : argument
let streams = StreamCount()
let machine = Machine(streams: streams)
do throws(HelperError) {
  // The control socket comes last, so that a daemon that can connect to it finds everything ready.
  let streamListener = try listen(at: folder + "/streams.sock")
  DispatchQueue(label: "firkin.streams").async { serveStreams(streamListener, machine, streams) }
  let controlListener = try listen(at: folder + "/control.sock")
  DispatchQueue(label: "firkin.control").async { serveControl(controlListener, Handler(machine: machine)) }
} catch {
  fail(error.message)
}
dispatchMain()
