/* What the launchers of processes behind walls share: that of the jail (jail.c) and that of a gVisor machine's box. */
#ifndef FIRKIN_LAUNCHER_H
#define FIRKIN_LAUNCHER_H

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Where the caller listens; -1: standard error. */
static int status_descriptor = -1;

/* Says what failed where the caller listens, with errno, and ends. */
static _Noreturn void fail(const char *format, ...) {
  char text[512];
  int cause = errno;
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  int target = status_descriptor >= 0 ? status_descriptor : STDERR_FILENO;
  dprintf(target, "error: %.*s: %s\n", length, text, strerror(cause));
  _exit(125);
}

/* What the argument `NAME=VALUE` has after its sign; NULL when it has another name. */
static const char *value_of(const char *argument, const char *name) {
  size_t length = strlen(name);
  return strncmp(argument, name, length) == 0 && argument[length] == '=' ? argument + length + 1 : NULL;
}

static long number_of(const char *text) {
  char *end;
  errno = 0;
  long number = strtol(text, &end, 10);
  if (errno || end == text || *end || number < 0) {
    errno = EINVAL;
    fail("%s is no number", text);
  }
  return number;
}

static void write_text(const char *path, const char *text) {
  int file = open(path, O_WRONLY | O_CLOEXEC);
  if (file < 0) fail("open %s", path);
  if (write(file, text, strlen(text)) < 0) fail("write %s", path);
  close(file);
}

static void make_folder(const char *path) {
  if (mkdir(path, 0755) && errno != EEXIST) fail("mkdir %s", path);
}

/* A negative value: no limit. */
static void limit(int resource, const char *name, long value) {
  if (value < 0) return;
  struct rlimit both = {(rlim_t)value, (rlim_t)value};
  if (setrlimit(resource, &both)) fail("limit %s", name);
}

/*
 * Joins control groups, but for one of version 2, whose folder it returns; -1 without one. A process that writes its
 * number to `cgroup.procs` waits until the kernel has stopped every fork of the host: 6 to 70 ms a group. In version 1
 * a thread that moves alone does not wait, and a launcher has one thread.
 */
static int join_groups(const char *const folders[], size_t count) {
  int unified = -1;
  for (size_t i = 0; i < count; i++) {
    char path[4096];
    snprintf(path, sizeof path, "%s/tasks", folders[i]);
    int tasks = open(path, O_WRONLY | O_CLOEXEC);
    if (tasks < 0) {
      if (errno != ENOENT || unified >= 0 || (unified = open(folders[i], O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0)
        fail("open %s", path);
      continue;
    }
    if (write(tasks, "0", 1) != 1) fail("join %s", folders[i]);
    close(tasks);
  }
  return unified;
}

/* Like fork(), and the child begins in the group of version 2 that this is the folder of; -1: in its parent's. */
static pid_t fork_inside(int unified) {
  if (unified < 0) return fork();
  struct clone_args how = {.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (unsigned)unified};
  pid_t child = (pid_t)syscall(SYS_clone3, &how, sizeof how);
  if (child >= 0) return child;
  /* Before Linux 5.7, and behind filters that know no clone3. */
  int processes = openat(unified, "cgroup.procs", O_WRONLY | O_CLOEXEC);
  if (processes < 0 || write(processes, "0", 1) != 1) fail("join a control group");
  close(processes);
  return fork();
}

/* Whom a process runs as; -1: as before. `group` is a further one. */
struct identity {
  long uid, gid, group;
};

/* After this the process has no right that any user of the host lacks, and can gain none. */
static void drop_privileges(struct identity who) {
  for (int capability = 0; prctl(PR_CAPBSET_READ, capability) >= 0; capability++) {
    if (prctl(PR_CAPBSET_DROP, capability) && errno != EPERM) fail("capability %d", capability);
  }
  if (who.gid >= 0) {
    gid_t group = (gid_t)who.group;
    if (setgroups(who.group >= 0 ? 1 : 0, &group)) fail("groups");
    if (setresgid((gid_t)who.gid, (gid_t)who.gid, (gid_t)who.gid)) fail("group %ld", who.gid);
  }
  if (who.uid >= 0 && setresuid((uid_t)who.uid, (uid_t)who.uid, (uid_t)who.uid)) fail("user %ld", who.uid);
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct none[2] = {{0}};
  if (syscall(SYS_capset, &header, none)) fail("capabilities");
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) fail("no new privileges");
}

static void tell_status(pid_t child) {
  dprintf(status_descriptor >= 0 ? status_descriptor : STDERR_FILENO, "%d\n", child);
}

/* Ends as a process ended that was waited for: 128 + N for signal N. */
static _Noreturn void exit_like(int ended) { _exit(WIFEXITED(ended) ? WEXITSTATUS(ended) : 128 + WTERMSIG(ended)); }

/* Waits for the process that was launched, and ends as it did. */
static _Noreturn void end_like(pid_t child) {
  int ended;
  while (waitpid(child, &ended, 0) < 0) {
    if (errno != EINTR) _exit(125);
  }
  exit_like(ended);
}

#endif
