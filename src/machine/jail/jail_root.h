/* The root of a process in the jail: a small file system of its own with what the process may see of the host. */
#ifndef FIRKIN_JAIL_ROOT_H
#define FIRKIN_JAIL_ROOT_H

#include <dirent.h>
#include <sys/mount.h>

#include "jail_options.h"

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
    bind_path(root, binding->path, binding->path, binding->kind, options->makes_user ? -1 : options->who.uid);
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

#endif
