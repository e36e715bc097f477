/// The queue executor runs an actor on a dispatch queue, because the framework wants every call on its machine's queue.
import Dispatch

public final class QueueExecutor: SerialExecutor {
  public let queue: DispatchQueue

  public init(label: String) { queue = DispatchQueue(label: label) }

  public func enqueue(_ job: consuming ExecutorJob) {
    let job = UnownedJob(job)
    queue.async { job.runSynchronously(on: self.asUnownedSerialExecutor()) }
  }

  /// For closures of the actor that the framework calls on its queue without the Swift runtime knowing.
  public func checkIsolated() { dispatchPrecondition(condition: .onQueue(queue)) }

  public func asUnownedSerialExecutor() -> UnownedSerialExecutor { UnownedSerialExecutor(ordinary: self) }
}
