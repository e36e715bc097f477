/// Runs an actor on a dispatch queue: the framework wants every call on the queue its machine was made with.
import Dispatch

public final class QueueExecutor: SerialExecutor {
  public let queue: DispatchQueue

  public init(label: String) { queue = DispatchQueue(label: label) }

  public func enqueue(_ job: consuming ExecutorJob) {
    let job = UnownedJob(job)
    queue.async { job.runSynchronously(on: self.asUnownedSerialExecutor()) }
  }

  /// For closures of the actor that somebody calls on its queue without the runtime knowing: the framework does.
  public func checkIsolated() { dispatchPrecondition(condition: .onQueue(queue)) }

  public func asUnownedSerialExecutor() -> UnownedSerialExecutor { UnownedSerialExecutor(ordinary: self) }
}
