/// The users who are logged in at the screen. Saved states are encrypted with a key that the system gives only while the
/// user of this process is at the unlocked screen.
import Virtualization

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif
#if canImport(Darwin)
import Darwin
import IOKit
#else
import Glibc
#endif

/// One graphical session of this host.
public struct ConsoleUser: Sendable, Equatable {
  let userId: uid_t
  /// Whether the session is the one that the screen shows. Others are in the background (fast user switching).
  let isOnConsole: Bool
  let isLocked: Bool
}

/// Why memory can be neither saved nor restored now. Nil when nothing speaks against it; then only the framework knows.
public func sessionProblem() -> String? { sessionProblem(of: geteuid(), among: consoleUsers()) }

/// The session counts, not whether this process belongs to it, because a process that was started over SSH belongs to
/// none although its user may be at the screen.
/// - Parameter users: nil when the system does not tell
func sessionProblem(of user: uid_t, among users: [ConsoleUser]?) -> String? {
  guard let users else { return nil }
  let own = users.filter { $0.userId == user }
  guard !own.isEmpty else { return "the user of this process is not logged in at the screen" }
  guard own.contains(where: \.isOnConsole) else { return "another user is at the screen" }
  return own.contains { $0.isOnConsole && !$0.isLocked } ? nil : "the screen is locked"
}

#if canImport(Darwin)
/// The system's own list, which every process may read. An entry without the lock's key is unlocked.
private func consoleUsers() -> [ConsoleUser]? {
  let root = IORegistryGetRootEntry(kIOMainPortDefault)
  defer { IOObjectRelease(root) }
  let property = IORegistryEntryCreateCFProperty(root, "IOConsoleUsers" as CFString, kCFAllocatorDefault, 0)
  guard let sessions = property?.takeRetainedValue() as? [[String: Any]] else { return nil }
  return sessions.compactMap { session in
    guard let user = session["kCGSSessionUserIDKey"] as? Int else { return nil }
    return ConsoleUser(
      userId: uid_t(truncatingIfNeeded: user), isOnConsole: session["kCGSSessionOnConsoleKey"] as? Bool ?? false,
      isLocked: session["CGSSessionScreenIsLocked"] as? Bool ?? false)
  }
}
#else
private func consoleUsers() -> [ConsoleUser]? {
  [ConsoleUser(userId: geteuid(), isOnConsole: true, isLocked: SimulatedHost.current.isLocked)]
}
#endif
