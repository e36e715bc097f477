/// Tests of the probe's report: rows are written whatever a step does.
import Foundation
import HelperProtocol
import Testing

@testable import Probe

private final class Rows: @unchecked Sendable {
  private let lock = NSLock()
  private var lines: [String] = []

  func add(_ line: String) { lock.withLock { lines.append(line) } }
  var all: [String] { lock.withLock { lines } }
}

@Test func aStepThatFailsOrNeverEndsIsARowAndTheNextOneIsRun() async throws {
  let rows = Rows()
  let reporter = Reporter(limit: .milliseconds(200)) { rows.add($0) }
  #expect(await reporter.step("good") { (7, Facts(bytes: 3, note: "n")) } == 7)
  let failed: Int? = await reporter.step("bad") { throw HelperError(.framework, "no", domain: "VZErrorDomain", number: 12) }
  let late: Int? = await reporter.step("late") {
    try await Task.sleep(for: .seconds(600))
    return (1, Facts())
  }
  #expect(failed == nil && late == nil)
  let found = try rows.all.map { try JSONSerialization.jsonObject(with: Data($0.utf8)) as? NSDictionary }
  #expect(found.map { $0?["step"] as? String } == ["good", "bad", "late"])
  #expect(found.map { $0?["ok"] as? Bool } == [true, false, false])
  #expect((found[1]?["error"] as? NSDictionary)?["number"] as? Int == 12)
  #expect(((found[2]?["error"] as? NSDictionary)?["message"] as? String)?.contains("did not end within") == true)
}
