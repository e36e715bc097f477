/// The framework's refusals in the protocol's terms, and the end of a guest as the framework tells it.
import HelperProtocol
import Virtualization

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// The longest text of a refusal. The reply to `CONNECT` has room for 4 KiB.
private let maxTextCharacters = 2000

/// A refusal of the framework. No decision depends on its words, which are in the language of the user.
func describe(_ error: any Error) -> HelperError {
  if let known = error as? HelperError { return known }
  guard let error = error as? VZError else { return HelperError(.inputOutput, "\(error)") }
  let text = String(wholeText(error).prefix(maxTextCharacters))
  let isOfSession = [.save, .restore].contains(error.code)
  // The screen may have been locked since the check before the call.
  if isOfSession, let problem = sessionProblem() ?? keyProblem(error) {
    return HelperError(.hostLocked, "\(problem): \(text)", domain: VZError.errorDomain, number: error.code.rawValue)
  }
  return HelperError(.framework, text, domain: VZError.errorDomain, number: error.code.rawValue)
}

/// Whether a restore failed as it does while another machine of the same identity has not quite ended. The framework
/// has one code for every failed restore.
func mayBeInUse(_ error: any Error) -> Bool {
  guard let error = error as? VZError, error.code == .restore else { return false }
  return describe(error).code == .framework
}

#if canImport(Darwin)
/// errSecInteractionNotAllowed: the key of saved states is not available while the screen is locked.
private let keyUnavailable = -25308

private func keyProblem(_ error: any Error) -> String? {
  let refusal = error as NSError
  if refusal.code == keyUnavailable { return "the key of saved states is not available, as under a locked screen" }
  return refusal.underlyingErrors.lazy.compactMap(keyProblem).first
}

/// Everything that an error of the system says: its words, its reason, its further facts and the errors below it.
private func wholeText(_ error: any Error) -> String {
  let refusal = error as NSError
  let told: Set<String> = [
    NSLocalizedDescriptionKey, NSLocalizedFailureReasonErrorKey, NSUnderlyingErrorKey, NSMultipleUnderlyingErrorsKey,
  ]
  let words = [refusal.localizedDescription, refusal.localizedFailureReason].compactMap { $0 }
  let facts = refusal.userInfo.filter { !told.contains($0.key) }.map { "\($0.key)=\($0.value)" }.sorted()
  let causes = refusal.underlyingErrors.map { cause in
    "because \((cause as NSError).domain) \((cause as NSError).code): \(wholeText(cause))"
  }
  return (words + facts + causes).joined(separator: " ")
}
#else
private func keyProblem(_ error: VZError) -> String? { nil }

private func wholeText(_ error: VZError) -> String { error.localizedDescription }
#endif

/// The framework keeps its delegate weakly; the machine's actor keeps this one.
final class StopObserver: NSObject, VZVirtualMachineDelegate {
  private let tell: @Sendable (String) -> Void

  init(_ tell: @escaping @Sendable (String) -> Void) { self.tell = tell }

  func guestDidStop(_ virtualMachine: VZVirtualMachine) { tell("the guest powered itself off") }

  func virtualMachine(_ virtualMachine: VZVirtualMachine, didStopWithError error: any Error) {
    tell("the machine stopped: \(describe(error))")
  }
}
