/// The one error of the helper. Its code decides which error the daemon makes of it; its message is for people.
public struct HelperError: Error, Codable, Equatable, Sendable, CustomStringConvertible {
  public enum Code: String, Codable, Sendable, CaseIterable {
    /// The line is no message; the connection ends.
    case badMessage = "bad_message"
    /// The message is of a newer daemon. The text names its operation. The connection goes on.
    case unknownOperation = "unknown_operation"
    case unsupportedVersion = "unsupported_version"
    /// Another operation came before `hello` on this connection.
    case helloFirst = "hello_first"
    case invalidArgument = "invalid_argument"
    case invalidState = "invalid_state"
    /// Nobody is logged in at the screen, or the screen is locked. Then the framework neither saves nor restores.
    case hostLocked = "host_locked"
    /// The framework refused. `domain` and `number` are its own.
    case framework
    case inputOutput = "input_output"
  }

  public let code: Code
  public let message: String
  public let domain: String?
  public let number: Int?

  public init(_ code: Code, _ message: String, domain: String? = nil, number: Int? = nil) {
    self.code = code
    self.message = message
    self.domain = domain
    self.number = number
  }

  public var description: String {
    let origin = domain.map { " (\($0) \(number ?? 0))" } ?? ""
    return "\(code.rawValue): \(message)\(origin)"
  }
}
