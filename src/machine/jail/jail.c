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
 *   joins-late      the process joins its cgroups after it was started: only for a program that starts no other
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
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "system_calls.h"

enum { MAX_PATHS = 64, FIRST_DESCRIPTOR = 3, MAX_ENVIRONMENT = 16, MAX_CGROUPS = 4 };

enum bind_kind { READ_ONLY, READ_WRITE, DEVICE, EMPTY };

struct binding {
  enum bind_kind kind;
  const char *path;
};

struct options {
  const char *engine;
  const char *mount;
  struct binding bindings[MAX_PATHS];
  size_t binding_count;
  const char *cgroups[MAX_CGROUPS];
  int cgroup_lists[MAX_CGROUPS]; /* opened: the launcher leaves the root in which they are */
  size_t cgroup_count;
  char *environment[MAX_ENVIRONMENT + 1];
  size_t environment_count;
  long uid, gid, group;
  bool makes_user, has_empty_network, has_proc, has_host_proc, joins_late;
  const char *calls;
  long kept, file_bytes, files, processes, status, pair_bytes;
  const char *oom;
  char **command;
};

static int status_descriptor = -1;

/* Says what failed where the caller listens, and ends. */
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

static void add_binding(struct options *options, enum bind_kind kind, const char *path) {
  errno = E2BIG;
  if (options->binding_count == MAX_PATHS) fail("too many paths");
  options->bindings[options->binding_count++] = (struct binding){kind, path};
}

static void parse_option(struct options *options, char *argument) {
  const char *value;
  if ((value = value_of(argument, "engine")))
    options->engine = value;
  else if ((value = value_of(argument, "mount")))
    options->mount = value;
  else if ((value = value_of(argument, "ro")))
    add_binding(options, READ_ONLY, value);
  else if ((value = value_of(argument, "rw")))
    add_binding(options, READ_WRITE, value);
  else if ((value = value_of(argument, "device")))
    add_binding(options, DEVICE, value);
  else if ((value = value_of(argument, "empty")))
    add_binding(options, EMPTY, value);
  else if ((value = value_of(argument, "uid")))
    options->uid = number_of(value);
  else if ((value = value_of(argument, "gid")))
    options->gid = number_of(value);
  else if ((value = value_of(argument, "group")))
    options->group = number_of(value);
  else if ((value = value_of(argument, "keep")))
    options->kept = number_of(value);
  else if ((value = value_of(argument, "file-bytes")))
    options->file_bytes = number_of(value);
  else if ((value = value_of(argument, "files")))
    options->files = number_of(value);
  else if ((value = value_of(argument, "processes")))
    options->processes = number_of(value);
  else if ((value = value_of(argument, "pair")))
    options->pair_bytes = number_of(value);
  else if ((value = value_of(argument, "status")))
    options->status = number_of(value);
  else if ((value = value_of(argument, "oom")))
    options->oom = value;
  else if (strcmp(argument, "user") == 0)
    options->makes_user = true;
  else if (strcmp(argument, "joins-late") == 0)
    options->joins_late = true;
  else if (strcmp(argument, "empty-network") == 0)
    options->has_empty_network = true;
  else if (strcmp(argument, "proc") == 0)
    options->has_proc = true;
  else if (strcmp(argument, "host-proc") == 0)
    options->has_host_proc = true;
  else if ((value = value_of(argument, "calls")))
    options->calls = value;
  else if ((value = value_of(argument, "env")) && options->environment_count < MAX_ENVIRONMENT)
    options->environment[options->environment_count++] = argument + strlen("env=");
  else if ((value = value_of(argument, "cgroup")) && options->cgroup_count < MAX_CGROUPS)
    options->cgroups[options->cgroup_count++] = value;
  else {
    errno = EINVAL;
    fail("option %s", argument);
  }
}

static struct options parse(char **arguments) {
  struct options options = {
      .uid = -1, .gid = -1, .group = -1, .file_bytes = -1, .files = -1, .processes = -1, .status = -1};
  char **argument = arguments;
  for (; *argument && strcmp(*argument, "--") != 0; argument++) parse_option(&options, *argument);
  errno = EINVAL;
  if (!*argument || !argument[1]) fail("no program after --");
  options.command = argument + 1;
  return options;
}

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

static void write_text(const char *path, const char *text) {
  int file = open(path, O_WRONLY | O_CLOEXEC);
  if (file < 0) fail("open %s", path);
  if (write(file, text, strlen(text)) < 0) fail("write %s", path);
  close(file);
}

static void open_cgroups(struct options *options) {
  char path[4096];
  for (size_t i = 0; i < options->cgroup_count; i++) {
    snprintf(path, sizeof path, "%s/cgroup.procs", options->cgroups[i]);
    options->cgroup_lists[i] = open(path, O_WRONLY | O_CLOEXEC);
    if (options->cgroup_lists[i] < 0) fail("open %s", path);
  }
}

/* Puts a process into the cgroups; 0 is this one. False, with errno, when it cannot be. */
static bool join_cgroups(const struct options *options, pid_t process) {
  for (size_t i = 0; i < options->cgroup_count; i++) {
    if (dprintf(options->cgroup_lists[i], "%d", process) < 0) return false;
  }
  return true;
}

/*
 * The kernel takes up to a tenth of a second for the first join in a while, because it waits for every processor. So
 * the process runs meanwhile. One that cannot be joined is ended.
 */
static void join_late(const struct options *options, pid_t child) {
  if (join_cgroups(options, child) && join_cgroups(options, 0)) return;
  if (errno == ESRCH) return; /* It has ended. */
  fprintf(stderr, "the jail's process %d cannot join its cgroups: %s\n", child, strerror(errno));
  kill(child, SIGKILL);
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

static void make_folder(const char *path) {
  if (mkdir(path, 0755) && errno != EEXIST) fail("mkdir %s", path);
}

static void make_parents(const char *path) {
  char copy[4096];
  snprintf(copy, sizeof copy, "%s", path);
  for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    *slash = 0;
    make_folder(copy);
    *slash = '/';
  }
}

/* Makes the folders above `path`, and `path` as a file or folder for something to be bound on. */
static void make_place(const char *path, bool is_folder) {
  make_parents(path);
  if (is_folder) {
    make_folder(path);
    return;
  }
  int file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0444);
  if (file < 0) fail("create %s", path);
  close(file);
}

static void bind_path(const char *root, const char *source, const char *inside, enum bind_kind kind, long owner) {
  char target[4096];
  snprintf(target, sizeof target, "%s%s", root, inside);
  if (kind == EMPTY) {
    make_place(target, true);
    return;
  }
  struct stat found;
  if (stat(source, &found)) fail("stat %s", source);
  if (kind == DEVICE && owner >= 0) {
    // A node of the process's own, because that of the host may be root's alone.
    make_parents(target);
    if (!mknod(target, S_IFCHR | 0600, found.st_rdev) && !chown(target, (uid_t)owner, (gid_t)owner)) return;
    if (errno != EPERM) fail("device %s", source);
  }
  make_place(target, S_ISDIR(found.st_mode));
  if (mount(source, target, NULL, MS_BIND, NULL)) fail("bind %s", source);
  unsigned long flags = MS_BIND | MS_REMOUNT | MS_NOSUID | (kind == DEVICE ? MS_NOEXEC : MS_NODEV);
  if (kind == READ_ONLY) flags |= MS_RDONLY;
  if (kind == READ_WRITE) flags |= MS_NOEXEC;
  if (mount(NULL, target, NULL, flags, NULL)) fail("remount %s", source);
}

/* Binds what the engine's folder holds; a link in it, as /lib64 is one on some systems, is made again. */
static void bind_engine(const char *root, const char *engine) {
  DIR *folder = opendir(engine);
  if (!folder) fail("open %s", engine);
  for (struct dirent *entry; (entry = readdir(folder));) {
    if (entry->d_name[0] == '.') continue;
    char source[4096], inside[300], link[4096];
    snprintf(source, sizeof source, "%s/%s", engine, entry->d_name);
    snprintf(inside, sizeof inside, "/%s", entry->d_name);
    ssize_t length = readlink(source, link, sizeof link - 1);
    if (length < 0) {
      bind_path(root, source, inside, READ_ONLY, -1);
      continue;
    }
    link[length] = 0;
    char target[4096];
    snprintf(target, sizeof target, "%s%s", root, inside);
    if (symlink(link, target)) fail("link %s", target);
  }
  closedir(folder);
}

static void change_root(const struct options *options) {
  const char *root = options->mount;
  if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) fail("private mounts");
  if (mount("firkin", root, "tmpfs", MS_NOSUID, "size=256k,nr_inodes=256,mode=0755")) fail("new root %s", root);
  bind_engine(root, options->engine);
  for (size_t i = 0; i < options->binding_count; i++) {
    const struct binding *binding = &options->bindings[i];
    bind_path(root, binding->path, binding->path, binding->kind, options->makes_user ? -1 : options->uid);
  }
  if (options->has_host_proc) {
    char host_proc[4096];
    snprintf(host_proc, sizeof host_proc, "%s/proc", root);
    make_place(host_proc, true);
    if (mount("/proc", host_proc, NULL, MS_BIND | MS_REC, NULL)) fail("bind /proc");
  }
  if (options->has_proc) {
    char proc[4096];
    snprintf(proc, sizeof proc, "%s/proc", root);
    make_place(proc, true);
  }
  if (chdir(root)) fail("enter %s", root);
  if (syscall(SYS_pivot_root, ".", ".")) fail("change root");
  if (umount2(".", MNT_DETACH)) fail("leave the old root");
  if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID, "size=256k,nr_inodes=256,mode=0755"))
    fail("read-only root");
  if (chdir("/")) fail("enter the new root");
}

static void limit(int resource, const char *name, long value) {
  if (value < 0) return;
  struct rlimit both = {(rlim_t)value, (rlim_t)value};
  if (setrlimit(resource, &both)) fail("limit %s", name);
}

/* After this the process has no right that any user of the host lacks, and can gain none. */
static void drop_privileges(const struct options *options) {
  for (int capability = 0; prctl(PR_CAPBSET_READ, capability) >= 0; capability++) {
    if (prctl(PR_CAPBSET_DROP, capability) && errno != EPERM) fail("capability %d", capability);
  }
  if (options->gid >= 0) {
    gid_t group = (gid_t)options->group;
    if (setgroups(options->group >= 0 ? 1 : 0, &group)) fail("groups");
    if (setresgid((gid_t)options->gid, (gid_t)options->gid, (gid_t)options->gid)) fail("group %ld", options->gid);
  }
  if (options->uid >= 0 && setresuid((uid_t)options->uid, (uid_t)options->uid, (uid_t)options->uid))
    fail("user %ld", options->uid);
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct none[2] = {{0}};
  if (syscall(SYS_capset, &header, none)) fail("capabilities");
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) fail("no new privileges");
}

static _Noreturn void become(const struct options *options) {
  if (options->has_proc && mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)) fail("proc");
  limit(RLIMIT_CORE, "core", 0);
  limit(RLIMIT_MEMLOCK, "memlock", 0);
  limit(RLIMIT_FSIZE, "file-bytes", options->file_bytes);
  limit(RLIMIT_NOFILE, "files", options->files);
  drop_privileges(options);
  limit(RLIMIT_NPROC, "processes", options->processes);
  if (options->calls && filter_system_calls(strcmp(options->calls, "network") == 0)) fail("seccomp");
  execve(options->command[0], options->command, options->environment);
  fail("run %s", options->command[0]);
}

/* Waits for the process, and ends as it did. */
static _Noreturn void stand_by(const struct options *options, pid_t child) {
  dprintf(status_descriptor >= 0 ? status_descriptor : STDERR_FILENO, "%d\n", child);
  if (options->joins_late) {
    if (status_descriptor >= 0) close(status_descriptor);
    join_late(options, child);
  }
  close_range(FIRST_DESCRIPTOR, ~0U, 0);
  drop_privileges(options);
  int ended;
  while (waitpid(child, &ended, 0) < 0) {
    if (errno != EINTR) _exit(125);
  }
  _exit(WIFEXITED(ended) ? WEXITSTATUS(ended) : 128 + WTERMSIG(ended));
}

int main(int count, char **arguments) {
  (void)count;
  struct options options = parse(arguments + 1);
  status_descriptor = (int)options.status;
  if (status_descriptor >= 0) fcntl(status_descriptor, F_SETFD, FD_CLOEXEC);
  close_range((unsigned)(FIRST_DESCRIPTOR + options.kept), ~0U, 0);
  if (options.pair_bytes > 0) open_pair(&options);
  open_cgroups(&options);
  if (!options.joins_late && !join_cgroups(&options, 0)) fail("join the cgroups");
  if (options.oom) write_text("/proc/self/oom_score_adj", options.oom);
  if (options.makes_user) make_user_namespace();
  if (options.engine) {
    int spaces = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS;
    if (unshare(spaces | (options.has_empty_network ? CLONE_NEWNET : 0))) fail("namespaces");
    if (sethostname("jail", 4)) fail("host name");
    change_root(&options);
  }
  pid_t child = fork();
  if (child < 0) fail("fork");
  if (child == 0) become(&options);
  stand_by(&options, child);
}
