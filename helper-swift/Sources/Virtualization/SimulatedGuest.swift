/// The guest of the simulated machine: the guest agent as a local process in namespaces of its own, with the machine's
/// disk image mounted as its root. Its "memory" is the content of its RAM file systems and its boot id. A saved state
/// has these, and no processes but the agent.
import Dispatch
import FoundationEssentials
import Glibc

/// A saved state, read from a file and checked.
struct SavedGuest {
  struct Header: Codable {
    let magic: String
    let fingerprint: String
    let port: UInt32
    let bootId: String
    let archiveBytes: Int
  }

  static let magic = "firkin-simulated-1"
  let header: Header
  let archive: Data
  var fingerprint: String { header.fingerprint }

  static func read(_ path: String) throws -> SavedGuest {
    guard let data = try? Data(contentsOf: URL(fileURLWithPath: path)), let end = data.firstIndex(of: 10),
      let header = try? JSONDecoder().decode(Header.self, from: Data(data[..<end])), header.magic == magic,
      data.count - end - 1 == header.archiveBytes
    else { throw VZError(.restore, "The saved state cannot be read.") }
    return SavedGuest(header: header, archive: Data(data[(end + 1)...]))
  }
}

/// `lock` guards everything that changes after `boot`.
final class SimulatedGuest: @unchecked Sendable {
  /// The status of a guest that resets itself: what a shell says of a process that SIGHUP ended, as the kernel ends
  /// process 1 of a namespace that calls for a restart.
  static let resetStatus: Int32 = 128 + SIGHUP

  /// The folder beside the disk with the mount point, the agent's socket and the archive of a save.
  private let folder: String
  private let port: UInt32
  private let bootId: String
  private let listener: Int32
  private let supervisor: pid_t
  /// Its end is the guest's end, whether this process closes it or the kernel does when this process is gone.
  private let lifeline: Int32
  private let lock = DispatchSemaphore(value: 1)
  private var connection: Int32?
  private var hasEnded = false

  private init(folder: String, port: UInt32, bootId: String, listener: Int32, supervisor: pid_t, lifeline: Int32) {
    self.folder = folder
    self.port = port
    self.bootId = bootId
    self.listener = listener
    self.supervisor = supervisor
    self.lifeline = lifeline
  }

  static func boot(
    _ configuration: VZVirtualMachineConfiguration, _ host: SimulatedHost, memory: SavedGuest?, claim: Int32?
  ) throws -> SimulatedGuest {
    guard let loader = configuration.bootLoader as? VZLinuxBootLoader,
      let disk = configuration.storageDevices.first?.attachment as? VZDiskImageStorageDeviceAttachment,
      let port = memory?.header.port ?? agentPort(in: loader.commandLine)
    else { throw VZError(.invalidVirtualMachineConfiguration, "No Linux with a disk and an agent on a port.") }
    let folder = disk.url.deletingLastPathComponent().path + "/simulated"
    try makeFolders(folder)
    if let memory { try memory.archive.write(to: URL(fileURLWithPath: folder + "/memory.tar")) }
    else { unlink(folder + "/memory.tar") }
    let bootId = memory?.header.bootId ?? UUID().uuidString.lowercased()
    try Data((bootId + "\n").utf8).write(to: URL(fileURLWithPath: folder + "/boot-id"))
    let listener = try listenForAgent(folder + "/host/agent.sock")
    var ends: [Int32] = [-1, -1]
    guard pipe(&ends) == 0 else { throw VZError(.internalError, "No pipe.") }
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    defer { close(ends[0]) }
    // As a kernel does that finds no program to run first.
    let panics = loader.commandLine.contains("rdinit=/nonexistent") ? "panics" : ""
    let lag = "\(Double(host.lagMs) / 1000)"
    let arguments = [folder, disk.url.path, host.agent, lag, panics]
    let log = configuration.consolePath ?? folder + "/guest.log"
    guard let supervisor = spawnShell(guestScript, arguments, input: ends[0], claim: claim, log: log) else {
      close(ends[1])
      close(listener)
      throw VZError(.internalError, "The guest's shell does not start.")
    }
    return SimulatedGuest(
      folder: folder, port: port, bootId: bootId, listener: listener, supervisor: supervisor, lifeline: ends[1])
  }

  /// Called once with the guest's end: 0 when the guest powered itself off.
  func onExit(_ tell: @escaping @Sendable (Int32) -> Void) {
    let supervisor = supervisor
    DispatchQueue(label: "simulated.guest").async { tell(awaitExit(supervisor)) }
  }

  /// A new connection of the agent. The agent dials the host, so its present connection is ended and the next one
  /// awaited.
  func connect(toPort wanted: UInt32) throws -> Int32 {
    lock.wait()
    defer { lock.signal() }
    guard wanted == port, !hasEnded else { throw VZError(.internalError, "Connection refused") }
    if let connection {
      shutdown(connection, Int32(SHUT_RDWR))
      close(connection)
      self.connection = nil
    }
    var ready = pollfd(fd: listener, events: Int16(POLLIN), revents: 0)
    guard poll(&ready, 1, 10_000) == 1 else { throw VZError(.internalError, "The guest's agent does not listen") }
    let accepted = accept(listener, nil, nil)
    guard accepted >= 0 else { throw VZError(.internalError, "Connection refused") }
    connection = accepted
    return fcntl(accepted, F_DUPFD_CLOEXEC, 3)
  }

  /// Stops every process of the guest, and syncs its file system to its disk.
  func freeze() throws {
    try waitUntilBooted()
    for _ in 0..<2 { signalAll(SIGSTOP) }
    guard let agent = agentPid() else { throw VZError(.internalError, "The guest is gone.") }
    let sync = spawnShell(#"exec sync -f "/proc/$1/root/""#, ["\(agent)"], input: nil, log: folder + "/save.log")
    guard let sync, awaitExit(sync) == 0 else { throw VZError(.internalError, "The guest's disk cannot be synced.") }
  }

  func thaw() throws { signalAll(SIGCONT) }

  func save(to path: String, fingerprint: String) throws {
    guard let agent = agentPid() else { throw VZError(.save, "The guest is gone.") }
    let tar = folder + "/memory.tar"
    let script = #"exec tar -C "/proc/$1/root" --one-file-system -cf "$2" dev/shm run"#
    guard let pid = spawnShell(script, ["\(agent)", tar], input: nil, log: folder + "/save.log"), awaitExit(pid) == 0,
      let archive = try? Data(contentsOf: URL(fileURLWithPath: tar))
    else { throw VZError(.save, "The guest's memory cannot be archived.") }
    let header = SavedGuest.Header(
      magic: SavedGuest.magic, fingerprint: fingerprint, port: port, bootId: bootId, archiveBytes: archive.count)
    let file = try JSONEncoder().encode(header) + Data([10]) + archive
    try file.write(to: URL(fileURLWithPath: path), options: .withoutOverwriting)
  }

  func end() {
    lock.wait()
    defer { lock.signal() }
    guard !hasEnded else { return }
    hasEnded = true
    // An end that was ordered comes at once. Without the order the guest runs on for a while.
    var order = UInt8(ascii: "e")
    _ = write(lifeline, &order, 1)
    close(lifeline)
    close(listener)
    if let connection { close(connection) }
  }

  private func waitUntilBooted() throws {
    for _ in 0..<1000 {
      if agentPid() != nil { return }
      usleep(5_000)
    }
    throw VZError(.internalError, "The guest does not boot.")
  }

  /// The process that is 1 in the guest's namespace, once it is the agent.
  private func agentPid() -> pid_t? {
    guest().first { link("/proc/\($0)/exe")?.hasSuffix("firkin-guest") == true }
  }

  private func signalAll(_ signal: Int32) {
    for pid in guest() { kill(pid, signal) }
  }

  /// Every process of the guest, found by the namespace of its shell.
  private func guest() -> [pid_t] {
    let text = (try? String(contentsOf: URL(fileURLWithPath: folder + "/namespace"), encoding: .utf8)) ?? ""
    let namespace = text.trimmingCharacters(while: { $0 == "\n" })
    guard !namespace.isEmpty, let names = try? FileManager.default.contentsOfDirectory(atPath: "/proc") else { return [] }
    return names.compactMap(pid_t.init).filter { link("/proc/\($0)/ns/pid") == namespace }
  }
}

extension String {
  fileprivate func trimmingCharacters(while drop: (Character) -> Bool) -> String {
    String(reversed().drop(while: drop).reversed())
  }
}

private func link(_ path: String) -> String? { try? FileManager.default.destinationOfSymbolicLink(atPath: path) }

private func agentPort(in commandLine: String) -> UInt32? {
  commandLine.split(separator: " ").last { $0.hasPrefix("firkin.vsock=") }.flatMap { UInt32($0.dropFirst(13)) }
}

private func makeFolders(_ folder: String) throws {
  for name in ["", "/root", "/host"] {
    guard mkdir(folder + name, 0o700) == 0 || errno == EEXIST else { throw VZError(.internalError, "\(folder) cannot be made.") }
  }
}

private func listenForAgent(_ path: String) throws -> Int32 {
  let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
  var address = sockaddr_un()
  address.sun_family = sa_family_t(AF_UNIX)
  let bytes = Array(path.utf8)
  guard bytes.count < MemoryLayout.size(ofValue: address.sun_path) else { throw VZError(.internalError, "\(path) is too long.") }
  withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
  unlink(path)
  let bound = withUnsafePointer(to: address) {
    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
      bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
    }
  }
  guard bound == 0, listen(descriptor, 4) == 0 else { throw VZError(.internalError, "\(path) cannot be listened at.") }
  return descriptor
}

/// Starts `/bin/sh -c script sh arguments…` with a descriptor as its standard input. The log gets its output, appended.
/// Descriptor 4 of the shell is the claim on the machine's identity, if there is one.
private func spawnShell(
  _ script: String, _ arguments: [String], input: Int32?, claim: Int32? = nil, log: String
) -> pid_t? {
  var actions = posix_spawn_file_actions_t()
  posix_spawn_file_actions_init(&actions)
  defer { posix_spawn_file_actions_destroy(&actions) }
  if let input { posix_spawn_file_actions_adddup2(&actions, input, 0) }
  else { posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0) }
  if let claim { posix_spawn_file_actions_adddup2(&actions, claim, 4) }
  posix_spawn_file_actions_addopen(&actions, 1, log, O_WRONLY | O_CREAT | O_APPEND, 0o600)
  posix_spawn_file_actions_adddup2(&actions, 1, 2)
  // Threads of dispatch queues block every signal, and a shell without SIGCHLD waits forever.
  var attributes = posix_spawnattr_t()
  posix_spawnattr_init(&attributes)
  defer { posix_spawnattr_destroy(&attributes) }
  var (none, all) = (sigset_t(), sigset_t())
  sigemptyset(&none)
  sigfillset(&all)
  posix_spawnattr_setsigmask(&attributes, &none)
  posix_spawnattr_setsigdefault(&attributes, &all)
  posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))
  var words: [UnsafeMutablePointer<CChar>?] = (["/bin/sh", "-c", script, "sh"] + arguments).map { strdup($0) } + [nil]
  var settings: [UnsafeMutablePointer<CChar>?] = [strdup("PATH=/usr/sbin:/usr/bin:/sbin:/bin"), nil]
  defer { for word in words + settings { free(word) } }
  var pid = pid_t()
  return posix_spawn(&pid, "/bin/sh", &actions, &attributes, &words, &settings) == 0 ? pid : nil
}

private func awaitExit(_ pid: pid_t) -> Int32 {
  var status: Int32 = 0
  while waitpid(pid, &status, 0) < 0 && errno == EINTR {}
  return status & 0x7f == 0 ? (status >> 8) & 0xff : 128 + (status & 0x7f)
}

/// The script of a guest's supervisor: $1 the guest's folder, $2 its disk, $3 the agent, $4 the lag in seconds, $5 not
/// empty for a kernel that panics. The supervisor reads its input until it is ordered to end, or this process is gone,
/// and kills process 1 of the guest, and with it every process of the guest. Like the process of Apple's framework it
/// runs on for the lag when this process went without a word, and holds the machine's identity for the lag afterwards.
private let guestScript = #"""
  boot='
    set -e
    readlink /proc/self/ns/pid > "$1/namespace.new"
    root=$1/root
    mount -o loop,noatime "$2" "$root"
    mount -t proc proc "$root/proc"
    mount -t tmpfs -o mode=755 dev "$root/dev"
    for device in null zero full random urandom tty; do
      : > "$root/dev/$device"
      mount --bind "/dev/$device" "$root/dev/$device"
    done
    mkdir "$root/dev/pts" "$root/dev/shm"
    mount -t devpts -o newinstance,gid=5,mode=620,ptmxmode=666 devpts "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
    mount -t tmpfs -o mode=755 run "$root/run"
    [ ! -f "$1/memory.tar" ] || tar -C "$root" -xf "$1/memory.tar"
    mkdir -p "$root/run/host"
    mount --bind "$1/host" "$root/run/host"
    cp "$3" "$1/host/firkin-guest"
    mount --bind "$1/boot-id" "$root/proc/sys/kernel/random/boot_id"
    ip link set lo up
    hostname firkin
    mv "$1/namespace.new" "$1/namespace"
    cd "$root"
    exec chroot . /run/host/firkin-guest --connect /run/host/agent.sock < /dev/null
  '
  exec 3<&0 < /dev/null
  echo "Linux version 0 (simulated)"
  if [ -n "$5" ]; then
    echo "firkin: the guest job begins"
    { sleep 0.2; echo "Kernel panic - not syncing: No working init found."; kill -HUP $$; } 3<&- 4<&- &
    guest=$!
  else
    unshare --mount --pid --uts --ipc --net --fork -- /bin/sh -c "$boot" sh "$@" 3<&- 4<&- &
    guest=$!
  fi
  { [ -n "$(cat <&3)" ] || sleep "$4"; pkill -KILL -P "$guest"; sleep "$4"; } &
  exec 3<&- 4<&-
  wait "$guest"
  """#
