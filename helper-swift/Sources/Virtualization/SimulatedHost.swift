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
    /// Whether several machines of one identity run at once. Not by default, as nobody has seen it on a Mac.
    let fanOut: Bool?
    /// The shortest duration of a save, as on a machine with much memory.
    let saveMs: UInt32?
    /// How long a machine that has ended keeps its identity, and how long one runs on whose process was killed.
    let lagMs: UInt32?
    /// What the framework refuses: names of calls, or of devices that it restores nothing with.
    let refuse: [String]?
  }

  let agent: String
  let folder: String
  let fanOut: Bool
  let saveMs: UInt32
  let lagMs: UInt32
  private let refused: [String]

  public static let current = SimulatedHost()

  private init() {
    var path = [CChar](repeating: 0, count: Int(PATH_MAX))
    let length = readlink("/proc/self/exe", &path, path.count - 1)
    let executable = String(decoding: path.prefix(max(0, length)).map(UInt8.init(bitPattern:)), as: UTF8.self)
    let data = try? Data(contentsOf: URL(fileURLWithPath: executable + ".simulated.json"))
    let settings = data.flatMap { try? JSONDecoder().decode(Settings.self, from: $0) }
    agent = settings?.agent ?? "/nonexistent/firkin-agent"
    folder = settings?.folder ?? "/nonexistent"
    fanOut = settings?.fanOut ?? false
    saveMs = settings?.saveMs ?? 0
    lagMs = settings?.lagMs ?? 200
    refused = settings?.refuse ?? []
  }

  public var isLocked: Bool { access(folder + "/locked", F_OK) == 0 }

  /// Apple's words are in the language of the user.
  func refuse(_ name: String, _ code: VZError.Code) throws {
    if refused.contains(name) { throw VZError(code, "Der Vorgang „\(name)“ ist fehlgeschlagen: Ungültiges Argument.") }
  }

  /// Saves and restores at the same time damage each other on a real host. Here the second one fails at once.
  /// A file `locks-soon` locks the screen in this very moment.
  func whileUnlocked(_ code: VZError.Code, _ body: () throws -> Void) throws {
    _ = rename(folder + "/locks-soon", folder + "/locked")
    guard !isLocked else { throw VZError(code, "Der Vorgang konnte nicht abgeschlossen werden: Zugriff verweigert.") }
    let descriptor = try lock(folder + "/save-restore", VZError(code, "Another save or restore is under way."))
    defer { close(descriptor) }
    try body()
  }

  /// A lock that is held for as long as the machine runs.
  func claim(_ identity: Data, _ code: VZError.Code) throws -> Int32 {
    let name = identity.map { String($0, radix: 16) }.joined().suffix(64)
    return try lock(folder + "/identity-\(name)", VZError(code, "Ungültiges Argument."))
  }

  private func lock(_ path: String, _ refusal: VZError) throws -> Int32 {
    let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { throw VZError(.internalError, "\(path) cannot be opened.") }
    guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
      close(descriptor)
      throw refusal
    }
    return descriptor
  }
}
