/*
 * The box: `firkin-box OPTION… -- KEEPER ARGUMENT…` makes what one gVisor sandbox lives in, and starts its keeper
 * there as the first process of a process namespace. The namespaces, the mounts and the sockets are made here, because
 * they take root; the keeper and everything that it starts are root of a user namespace only, whose users are nobody on
 * the host.
 *
 *   folder=PATH     the machine's folder
 *   mount=PATH      an empty folder in which the new root is put together; nobody else sees what is mounted there
 *   base=PATH       the lowest layer of the guest's disk: an image, whose files have users 0 to 65,535 as in the box;
 *                   or a folder, whose files belong to `owners`
 *   layer=PATH      an image with a layer that is only read; the top one first
 *   disk=PATH       an image with the layer that is written
 *   packed=PATH     an archive that this image is made from first
 *   packer=PATH     a Unix socket is bound there, where the launcher packs that image: see box_packer.h
 *   ro=PATH:INSIDE rw=PATH:INSIDE   a file or folder of the host, and where the keeper sees it
 *   socket=PATH     a Unix socket is bound there, and given to the keeper as a descriptor, in this order from 4 on
 *   meminfo=INSIDE  a file that is seen as /proc/meminfo, where runsc looks for the size of the guest's memory
 *   users=N         the first of 65,536 users of the host that the users in the box are
 *   owners=N        the first of 65,536 users whom the files of disks and folders belong to. When they are others than
 *                   `users`, the mounts show the files as those of `users`
 *   try-owners      tries on the folders `base` and `ro` whether mounts can do that, and ends
 *   network=ADDRESS/PREFIX,GATEWAY   the guest's interface, whose other end is the last descriptor
 *   cgroup=FOLDER oom=N   as for the jail
 *   status=N        descriptor that gets `PID\n`, and ends when the keeper has taken over; or `error: …\n`
 *
 * Descriptor 3 is kept. The launcher stays as the parent, without privileges, packs the disk when it is asked to, and
 * ends as the keeper ended: 128 + N for signal N.
 */
#define _GNU_SOURCE
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "../jail/launcher.h"
#include "box_calls.h"
#include "box_mounts.h"
#include "box_network.h"
#include "box_owners.h"
#include "box_packer.h"

enum { MAX_SOCKETS = 8, FIRST_SOCKET = 4, AFTER_SOCKETS = 64 };

struct options {
  struct box_root root;
  const char *folder, *network, *meminfo, *oom, *packed, *packer;
  const char *cgroups[16], *sockets[MAX_SOCKETS];
  size_t cgroup_count, socket_count;
  bool only_tries;
  int status;
  char **command;
};

static void add_socket(struct options *options, const char *path) {
  errno = E2BIG;
  if (options->socket_count == MAX_SOCKETS) fail("too many sockets");
  options->sockets[options->socket_count++] = path;
}

static void parse_option(struct options *options, char *argument) {
  const char *value;
  if ((value = value_of(argument, "folder")))
    options->folder = value;
  else if ((value = value_of(argument, "mount")))
    options->root.mount = value;
  else if ((value = value_of(argument, "base")))
    options->root.base = value;
  else if ((value = value_of(argument, "disk")))
    options->root.disk = value;
  else if ((value = value_of(argument, "packed")))
    options->packed = value;
  else if ((value = value_of(argument, "packer")))
    options->packer = value;
  else if ((value = value_of(argument, "layer")) && options->root.layer_count < MAX_LAYERS)
    options->root.layers[options->root.layer_count++] = value;
  else if ((value = value_of(argument, "ro")))
    add_binding(&options->root, value, true);
  else if ((value = value_of(argument, "rw")))
    add_binding(&options->root, value, false);
  else if ((value = value_of(argument, "socket")))
    add_socket(options, value);
  else if ((value = value_of(argument, "users")))
    options->root.users = (uid_t)number_of(value);
  else if ((value = value_of(argument, "owners")))
    options->root.owners = (uid_t)number_of(value);
  else if (strcmp(argument, "try-owners") == 0)
    options->only_tries = true;
  else if ((value = value_of(argument, "network")))
    options->network = value;
  else if ((value = value_of(argument, "meminfo")))
    options->meminfo = value;
  else if ((value = value_of(argument, "oom")))
    options->oom = value;
  else if ((value = value_of(argument, "status")))
    options->status = (int)number_of(value);
  else if ((value = value_of(argument, "cgroup")) && options->cgroup_count < 16)
    options->cgroups[options->cgroup_count++] = value;
  else {
    errno = EINVAL;
    fail("option %s", argument);
  }
}

static struct options parse(char **argument) {
  struct options options = {.status = -1, .root = {.map = -1, .base_map = -1}};
  for (; *argument && strcmp(*argument, "--") != 0; argument++) parse_option(&options, *argument);
  errno = EINVAL;
  if (!*argument || !argument[1]) fail("no keeper after --");
  const struct box_root *root = &options.root;
  if (!options.folder || !root->users || !root->owners || !root->mount || !root->base) fail("an option is missing");
  options.command = argument + 1;
  return options;
}

/* By a short name, because the path of a socket may have 107 bytes only and the folder's may be longer. */
static int bind_socket(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  char folder[4096];
  snprintf(folder, sizeof folder, "%s", path);
  char *name = strrchr(folder, '/');
  errno = EINVAL;
  if (!name) fail("socket %s", path);
  *name++ = 0;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0 || chdir(folder)) fail("enter %s", folder);
  snprintf(address.sun_path, sizeof address.sun_path, "%s", name);
  if (bind(fd, (const void *)&address, sizeof address)) fail("bind %s", path);
  if (listen(fd, 4)) fail("listen at %s", path);
  return fd;
}

/* Descriptors of the launcher's own get other numbers than the sockets have. */
static int out_of_the_way(int fd) {
  int moved = fcntl(fd, F_DUPFD_CLOEXEC, AFTER_SOCKETS);
  if (moved < 0) fail("descriptor");
  close(fd);
  return moved;
}

static void bind_sockets(const struct options *options) {
  for (size_t i = 0; i < options->socket_count; i++) {
    int fd = bind_socket(options->sockets[i]);
    int wanted = FIRST_SOCKET + (int)i;
    if (dup3(fd, wanted, 0) < 0 && errno != EINVAL) fail("descriptor %d", wanted);
    if (fd != wanted)
      close(fd);
    else
      fcntl(fd, F_SETFD, 0);
  }
}

/* Root of the user namespace, and with it of the network and of the mounts; on the host a user that nobody is. */
static void become_nobody(int asked, int mapped) {
  if (unshare(CLONE_NEWUSER)) fail("user namespace");
  char answer = 'u';
  if (write(asked, &answer, 1) != 1 || read(mapped, &answer, 1) != 1) fail("users");
  if (setgroups(0, NULL) || setresgid(0, 0, 0) || setresuid(0, 0, 0)) fail("root of the box");
  if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)) fail("namespaces of the box");
  if (sethostname("box", 3)) fail("host name");
  /*
   * Builds of runsc before August 2024 take every network namespace for the host's where this folder has a file
   * `rmem_default`, as it has since Linux 6.15. The folder is another one in each network namespace. A namespace may
   * mount a /proc only if it sees one that nothing covers, which is why the box has two.
   */
  if (mount("none", "/proc/sys/net/core", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k"))
    fail("/proc/sys/net/core");
}

static _Noreturn void become_keeper(const struct options *options, int asked, int mapped) {
  limit(RLIMIT_CORE, "core", 0);
  if (unshare(CLONE_NEWNS)) fail("mount namespace");
  make_root(&options->root);
  become_nobody(asked, mapped);
  if (options->meminfo && mount(options->meminfo, "/proc/meminfo", NULL, MS_BIND, NULL)) fail("/proc/meminfo");
  int network = FIRST_SOCKET + (int)options->socket_count;
  if (options->network) open_network(options->network, network);
  char *environment[] = {"PATH=/", "HOME=/", NULL};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) fail("no new privileges");
  if (refuse_calls()) fail("seccomp");
  execve(options->command[0], options->command, environment);
  fail("run %s", options->command[0]);
}

static void map_users(const struct options *options, pid_t child, int asked, int mapped) {
  char map[64], answer;
  if (read(asked, &answer, 1) != 1) return;
  snprintf(map, sizeof map, "0 %u %d", options->root.users, USERS);
  set_maps(child, map);
  if (write(mapped, &answer, 1) != 1) fail("users");
}

static _Noreturn void stand_by(pid_t child, const struct packer *packer) {
  tell_status(child);
  if (packer) hold_packer(packer);
  close_range(packer ? PACKER_END : 3, ~0U, 0);
  drop_privileges((struct identity){-1, -1, -1});
  if (packer) pack_until_end(child);
  end_like(child);
}

static void open_maps(struct box_root *root) {
  char map[96];
  if (root->users != root->owners) {
    /* The overlay's own files are root's. */
    snprintf(map, sizeof map, "0 0 1\n%u %u %d", root->owners, root->users, USERS);
    root->map = out_of_the_way(open_map(map));
  }
  if (is_image(root->base)) {
    snprintf(map, sizeof map, "0 %u %d", root->users, USERS);
    root->base_map = out_of_the_way(open_map(map));
  }
}

int main(int count, char **arguments) {
  (void)count;
  int asked[2], mapped[2];
  struct options options = parse(arguments + 1);
  status_descriptor = options.status;
  if (status_descriptor >= 0) status_descriptor = out_of_the_way(status_descriptor);
  if (pipe2(asked, O_CLOEXEC) || pipe2(mapped, O_CLOEXEC)) fail("pipe");
  for (int i = 0; i < 2; i++) {
    asked[i] = out_of_the_way(asked[i]);
    mapped[i] = out_of_the_way(mapped[i]);
  }
  close_range(FIRST_SOCKET, AFTER_SOCKETS - 1, 0);
  close_range(AFTER_SOCKETS, ~0U, CLOSE_RANGE_CLOEXEC);
  umask(022);
  open_maps(&options.root);
  if (options.only_tries) {
    try_owners(&options.root);
    return 0;
  }
  bind_sockets(&options);
  int unified = join_groups(options.cgroups, options.cgroup_count);
  if (options.oom) write_text("/proc/self/oom_score_adj", options.oom);
  if (options.packed) unpack_disk(options.packed, options.root.disk);
  struct packer packer;
  if (options.packer) {
    packer = open_packer(options.folder, options.root.disk, bind_socket(options.packer));
    packer =
        (struct packer){out_of_the_way(packer.listener), out_of_the_way(packer.image), out_of_the_way(packer.folder)};
  }
  if (unshare(CLONE_NEWPID)) fail("process namespace");
  pid_t child = fork_inside(unified);
  if (child < 0) fail("fork");
  if (child == 0) become_keeper(&options, asked[1], mapped[0]);
  close(asked[1]);
  map_users(&options, child, asked[0], mapped[1]);
  stand_by(child, options.packer ? &packer : NULL);
}
