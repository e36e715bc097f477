/// Cuts a byte stream into lines. Pure and incremental: the verdict does not depend on how the bytes were cut.

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

  /// Takes what arrived and returns the lines it completes, without their newlines; empty lines are left out.
  /// - Throws: ``HelperError`` `bad_message` for a line over ``maxLineBytes``, as soon as that is certain.
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
