/*
 * The jail: `firkin-jail OPTION… -- PROGRAM ARGUMENT…` starts one process of an engine behind as many walls as it is
 * told to raise, so that an engine that a guest has taken over owns nothing but its own machine.
 *
 *   engine=FOLDER   the new root has the entries of this folder, read-only
 *   mount=FOLDER    an empty folder in which the new root is put together; nobody else sees what is mounted there
 *   rw=PATH ro=PATH a file or folder of the host that the process sees at the same path
 *   empty=PATH      an empty folder at this path, which cannot be written
 *   device=PATH     a device of the host, likewise
 *   uid=N gid=N     whom the process runs as; without them it keeps its user
 *   group=N         a further group, for a device that only its members may open
 *   user            makes a user namespace first, for a caller that is not root
 *   empty-network   a network namespace without any interface; otherwise the process has the host's network
 *   cgroup=FOLDER   a cgroup that the process joins
 *   keep=N          so many descriptors from 3 on stay open, all later ones are closed
 *   file-bytes=N files=N processes=N   resource limits
 *   oom=N           the process's oom_score_adj
 *   calls=engine|network   allows only the system calls that such a process needs
 *   proc            /proc of the new process namespace
 *   host-proc       /proc of the host, where a user namespace may not mount one of its own
 *   env=NAME=VALUE  environment of the process, which has no other
 *   pair=BYTES      the next two descriptors after those that are kept are a socket pair whose second end may hold so
 *                   many bytes that are not read yet: more than the system's limit, for which it takes privileges
 *   status=N        descriptor that gets `PID\n`, and ends when PROGRAM has taken over; or `error: …\n`
 *
 * The launcher itself stays as the parent, without privileges, and ends as the process ended: 128 + N for signal N.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>

#include "jail_options.h"
#include "jail_root.h"
#include "launcher.h"
#include "system_calls.h"

/* The caller's descriptors come first, so the pair gets the numbers that follow them. */
static void open_pair(const struct options *options) {
  int ends[2], bytes = (int)options->pair_bytes, first = FIRST_DESCRIPTOR + (int)options->kept;
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) fail("socket pair");
  if (ends[0] != first || ends[1] != first + 1) {
    errno = EBADF;
    fail("descriptors %d and %d were expected to be free", first, first + 1);
  }
  if (setsockopt(ends[1], SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes))
    setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

/* The caller's user and group are themselves inside, and nobody else is there. */
static void make_user_namespace(void) {
  char map[64];
  unsigned uid = getuid(), gid = getgid();
  if (unshare(CLONE_NEWUSER)) fail("user namespace");
  write_text("/proc/self/setgroups", "deny");
  snprintf(map, sizeof map, "%u %u 1", uid, uid);
  write_text("/proc/self/uid_map", map);
  snprintf(map, sizeof map, "%u %u 1", gid, gid);
  write_text("/proc/self/gid_map", map);
}

static _Noreturn void become(const struct options *options) {
  if (options->has_proc && mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)) fail("proc");
  limit(RLIMIT_CORE, "core", 0);
  limit(RLIMIT_MEMLOCK, "memlock", 0);
  limit(RLIMIT_FSIZE, "file-bytes", options->file_bytes);
  limit(RLIMIT_NOFILE, "files", options->files);
  drop_privileges(options->who);
  limit(RLIMIT_NPROC, "processes", options->processes);
  if (options->calls && filter_system_calls(strcmp(options->calls, "network") == 0)) fail("seccomp");
  execve(options->command[0], options->command, options->environment);
  fail("run %s", options->command[0]);
}

static _Noreturn void stand_by(const struct options *options, pid_t child) {
  tell_status(child);
  close_range(FIRST_DESCRIPTOR, ~0U, 0);
  drop_privileges(options->who);
  end_like(child);
}

int main(int count, char **arguments) {
  (void)count;
  struct options options = parse(arguments + 1);
  status_descriptor = (int)options.status;
  if (status_descriptor >= 0) fcntl(status_descriptor, F_SETFD, FD_CLOEXEC);
  close_range((unsigned)(FIRST_DESCRIPTOR + options.kept), ~0U, 0);
  if (options.pair_bytes > 0) open_pair(&options);
  int unified = join_groups(options.cgroups, options.cgroup_count);
  if (options.oom) write_text("/proc/self/oom_score_adj", options.oom);
  if (options.makes_user) make_user_namespace();
  if (options.engine) {
    int spaces = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS;
    if (unshare(spaces | (options.has_empty_network ? CLONE_NEWNET : 0))) fail("namespaces");
    if (sethostname("jail", 4)) fail("host name");
    change_root(&options);
  }
  pid_t child = fork_inside(unified);
  if (child < 0) fail("fork");
  if (child == 0) become(&options);
  stand_by(&options, child);
}
