/// The host of the simulated framework, described by `<executable>.simulated.json` and by files that tests put into its
/// folder. It stands in for macOS, which knows whether a user is logged in at the screen, and which machines run.
import FoundationEssentials
import Glibc

public struct SimulatedHost: Sendable {
  private struct Settings: Decodable {
    /// The guest agent's executable.
    let agent: String
    /// The folder of the locks of saves and identities. A file `locked` in it locks the screen.
    let folder: String
    let fanOut: Bool?
    /// The shortest duration of a save, as on a machine with much memory.
    let saveMs: UInt32?
  }

  let agent: String
  let folder: String
  let fanOut: Bool
  let saveMs: UInt32

  public static let current = SimulatedHost()

  private init() {
    var path = [CChar](repeating: 0, count: Int(PATH_MAX))
    let length = readlink("/proc/self/exe", &path, path.count - 1)
    let executable = String(decoding: path.prefix(max(0, length)).map(UInt8.init(bitPattern:)), as: UTF8.self)
    let data = try? Data(contentsOf: URL(fileURLWithPath: executable + ".simulated.json"))
    let settings = data.flatMap { try? JSONDecoder().decode(Settings.self, from: $0) }
    agent = settings?.agent ?? "/nonexistent/firkin-agent"
    folder = settings?.folder ?? "/nonexistent"
    fanOut = settings?.fanOut ?? true
    saveMs = settings?.saveMs ?? 0
  }

  /// Why machines cannot be saved or restored now; nil when they can.
  public var sessionProblem: String? {
    access(folder + "/locked", F_OK) == 0 ? "the screen is locked" : nil
  }

  /// Saves and restores at the same time damage each other on a real host. Here the second one fails at once.
  func whileUnlocked(_ code: VZError.Code, _ body: () throws -> Void) throws {
    guard sessionProblem == nil else { throw VZError(code, "Permission denied") }
    let descriptor = try lock(folder + "/save-restore", VZError(code, "Another save or restore is under way."))
    defer { close(descriptor) }
    try body()
  }

  /// A lock that is held for as long as the machine runs.
  func claim(_ identity: Data, _ code: VZError.Code) throws -> Int32 {
    let name = identity.map { String($0, radix: 16) }.joined().suffix(64)
    return try lock(folder + "/identity-\(name)", VZError(code, "Invalid argument: the identifier is in use."))
  }

  private func lock(_ path: String, _ refusal: VZError) throws -> Int32 {
    let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { throw VZError(.internal, "\(path) cannot be opened.") }
    guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
      close(descriptor)
      throw refusal
    }
    return descriptor
  }
}
