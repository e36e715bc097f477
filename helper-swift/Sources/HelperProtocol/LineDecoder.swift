/// The line decoder cuts a byte stream into lines. Its verdict does not depend on how the bytes arrived in pieces.

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// The longest line, without its newline. A reply with a disk's list of blocks is the longest message there is.
public let maxLineBytes = 1 << 20

public struct LineDecoder: Sendable {
  private var unfinished = Data()

  public init() {}

  /// Takes bytes that arrived and returns the lines they complete, without newlines. Empty lines are left out.
  /// - Throws: ``HelperError`` `bad_message` for a line over ``maxLineBytes``, as soon as it is too long.
  public mutating func take(_ bytes: some Sequence<UInt8>) throws(HelperError) -> [Data] {
    var lines: [Data] = []
    for byte in bytes {
      if byte == UInt8(ascii: "\n") {
        if !unfinished.isEmpty { lines.append(unfinished) }
        unfinished = Data()
      } else if unfinished.count == maxLineBytes {
        throw HelperError(.badMessage, "a line is longer than \(maxLineBytes) bytes")
      } else {
        unfinished.append(byte)
      }
    }
    return lines
  }
}
