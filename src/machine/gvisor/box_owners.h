/*
 * The owners of files in a box. Files of disks and snapshots belong to the same users whichever machine wrote them,
 * so that every machine can stand on them. The users of a box are its own. Mounts show files of the first as files of
 * the second, and write them down as files of the first.
 */
#ifndef FIRKIN_BOX_OWNERS_H
#define FIRKIN_BOX_OWNERS_H

#include <sched.h>
#include <signal.h>
#include <sys/mount.h>

#include "../jail/launcher.h"

enum { USERS = 65536 };

/* Sets the users and groups of a process's user namespace. */
static void set_maps(pid_t process, const char *map) {
  char path[64];
  for (const char *const *kind = (const char *const[]){"uid_map", "gid_map", NULL}; *kind; kind++) {
    snprintf(path, sizeof path, "/proc/%d/%s", process, *kind);
    write_text(path, map);
  }
}

/* A user namespace that says which users of files are which users of the box: lines `OF-FILES OF-BOX COUNT`. */
static int open_map(const char *map) {
  char path[64];
  pid_t child = fork();
  if (child < 0) fail("fork");
  if (child == 0) {
    if (unshare(CLONE_NEWUSER)) _exit(errno);
    raise(SIGSTOP);
    _exit(0);
  }
  int state;
  if (waitpid(child, &state, WUNTRACED) != child) fail("a map of owners");
  if (!WIFSTOPPED(state)) {
    errno = WEXITSTATUS(state);
    fail("user namespace");
  }
  set_maps(child, map);
  snprintf(path, sizeof path, "/proc/%d/ns/user", child);
  int space = open(path, O_RDONLY | O_CLOEXEC);
  if (space < 0) fail("open %s", path);
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  return space;
}

/* Shows the files of a mount as those of the box. Only a mount that is nowhere yet can be changed so: a copy of it. */
static void map_owners(int map, const char *path) {
  if (map < 0) return;
  int copy = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  if (copy < 0) fail("copy the mount %s", path);
  struct mount_attr attributes = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (unsigned)map};
  if (mount_setattr(copy, "", AT_EMPTY_PATH, &attributes, sizeof attributes)) fail("owners of %s", path);
  if (umount2(path, MNT_DETACH)) fail("unmount %s", path);
  if (move_mount(copy, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH)) fail("mount %s", path);
  close(copy);
}

#endif
