/// A row of the probe's report: one step, as one line of JSON.
import HelperProtocol

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// What a step found besides its success.
struct Facts: Sendable {
  var bytes: Int?
  var tries: Int?
  var note: String?
}

struct Row: Encodable, Sendable {
  let step: String
  let ok: Bool
  let ms: Int
  let bytes: Int?
  /// How many times a restore was tried until it worked.
  let tries: Int?
  let note: String?
  let error: HelperError?
}

/// Runs steps one after the other. None keeps the ones after it from being run, whether it fails or never ends.
struct Reporter: Sendable {
  let limit: Duration
  let emit: @Sendable (String) -> Void

  /// The result of the work. Nil when it failed or did not end in time; then it may be under way still.
  func step<Result: Sendable>(
    _ name: String, _ work: @escaping @Sendable () async throws -> (Result, Facts)
  ) async -> Result? {
    let start = ContinuousClock.now
    let outcome = await race(name, work)
    let ms = Int((ContinuousClock.now - start) / .milliseconds(1))
    switch outcome {
    case .success(let (result, facts)):
      write(Row(step: name, ok: true, ms: ms, bytes: facts.bytes, tries: facts.tries, note: facts.note, error: nil))
      return result
    case .failure(let error):
      write(Row(step: name, ok: false, ms: ms, bytes: nil, tries: nil, note: nil, error: error))
      return nil
    }
  }

  func step(_ name: String, _ work: @escaping @Sendable () async throws -> Facts) async -> Bool {
    await step(name) { (true, try await work()) } ?? false
  }

  private func race<Result: Sendable>(
    _ name: String, _ work: @escaping @Sendable () async throws -> Result
  ) async -> Swift.Result<Result, HelperError> {
    let limit = limit
    return await withCheckedContinuation { continuation in
      let first = First(continuation)
      Task {
        do {
          await first.settle(.success(try await work()))
        } catch {
          await first.settle(.failure(error as? HelperError ?? HelperError(.inputOutput, "\(error)")))
        }
      }
      Task {
        try await Task.sleep(for: limit)
        await first.settle(.failure(HelperError(.inputOutput, "\(name) did not end within \(limit)")))
      }
    }
  }

  private func write(_ row: Row) {
    do {
      let encoder = JSONEncoder()
      encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
      emit(String(decoding: try encoder.encode(row), as: UTF8.self))
    } catch {
      emit(#"{"step":"report","ok":false,"ms":0}"#)
    }
  }
}

/// The first of two outcomes wins.
private actor First<Result: Sendable> {
  private var continuation: CheckedContinuation<Swift.Result<Result, HelperError>, Never>?

  init(_ continuation: CheckedContinuation<Swift.Result<Result, HelperError>, Never>) { self.continuation = continuation }

  func settle(_ result: Swift.Result<Result, HelperError>) {
    continuation?.resume(returning: result)
    continuation = nil
  }
}
