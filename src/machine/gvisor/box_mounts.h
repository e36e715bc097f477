/*
 * The root of a box: a small file system of its own with what the keeper may see of the host, and the guest's disk at
 * /disk, an overlay of images, and of a folder where the lowest layer is one.
 */
#ifndef FIRKIN_BOX_MOUNTS_H
#define FIRKIN_BOX_MOUNTS_H

#include <sys/mount.h>

#include "../jail/launcher.h"
#include "box_loops.h"
#include "box_owners.h"

enum { MAX_LAYERS = 16, MAX_BINDINGS = 16 };

struct binding {
  /* `PATH:INSIDE` */
  const char *spec;
  bool is_read_only;
};

struct box_root {
  const char *mount, *base, *disk;
  const char *layers[MAX_LAYERS];
  size_t layer_count;
  struct binding bindings[MAX_BINDINGS];
  size_t binding_count;
  /* The first of the box's users, and of those whom files on disks belong to. */
  uid_t users, owners;
  /* A user namespace that maps one to the other; -1: they are the same. */
  int map;
  /* The same for a base that is an image, whose files have the users that they have in a box. */
  int base_map;
};

static void add_binding(struct box_root *root, const char *spec, bool is_read_only) {
  errno = E2BIG;
  if (root->binding_count == MAX_BINDINGS) fail("too many paths");
  root->bindings[root->binding_count++] = (struct binding){spec, is_read_only};
}

static void mount_image(const char *image, const char *target, bool is_read_only) {
  char device[64];
  int loop = attach_loop(image, is_read_only, device);
  unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOATIME | (is_read_only ? MS_RDONLY : 0);
  /*
   * What the guest removes is given back to the host at once. What it syncs is in the host's memory, and need not be on
   * the host's disk: a machine ends with its host, and a save syncs for itself.
   */
  const char *options = is_read_only ? "" : "discard,noinit_itable,barrier=0";
  if (mount(device, target, "ext4", flags, options)) fail("mount %s", image);
  close(loop);
}

static bool is_image(const char *base) {
  struct stat found;
  if (stat(base, &found)) fail("stat %s", base);
  return S_ISREG(found.st_mode);
}

/*
 * Every box of an image has the same file system of the kernel's, so that the host has its pages once. Nothing is
 * written to it, not even by a journal. An error in it is the guest's affair, whatever the image asks for.
 */
static void mount_base(const struct box_root *root) {
  make_folder("layers/base");
  if (is_image(root->base)) {
    char device[64];
    int loop = share_loop(root->base, device);
    unsigned long flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOATIME;
    if (mount(device, "layers/base", "ext4", flags, "noload,errors=continue")) fail("mount %s", root->base);
    close(loop);
    map_owners(root->base_map, "layers/base");
  } else {
    if (mount(root->base, "layers/base", NULL, MS_BIND, NULL)) fail("bind %s", root->base);
    map_owners(root->map, "layers/base");
  }
}

static void mount_disk(const struct box_root *root) {
  char options[4096] =
      "redirect_dir=on,index=off,metacopy=off,upperdir=/layers/top/upper,workdir=/layers/top/work,"
      "lowerdir=";
  make_folder("layers");
  if (mount("layers", "layers", "tmpfs", MS_NOSUID | MS_NODEV, "size=64k")) fail("/layers");
  make_folder("layers/top");
  mount_image(root->disk, "layers/top", false);
  make_folder("layers/top/upper");
  make_folder("layers/top/work");
  if (chown("layers/top/upper", root->owners, root->owners)) fail("owner of the disk");
  map_owners(root->map, "layers/top");
  for (size_t i = 0; i < root->layer_count; i++) {
    char path[64];
    snprintf(path, sizeof path, "layers/%zu", i);
    make_folder(path);
    mount_image(root->layers[i], path, true);
    map_owners(root->map, path);
    snprintf(path, sizeof path, "/layers/%zu/upper:", i);
    strcat(options, path);
  }
  strcat(options, "/layers/base");
  mount_base(root);
  /* By paths in the new root, which short names keep within one page of options. */
  make_folder("disk");
  if (chroot(".")) fail("enter the new root");
  if (mount("disk", "/disk", "overlay", MS_NOSUID | MS_NODEV, options)) fail("overlay");
  /* The overlay has mounts of its own. Files of the base, on which all machines stand, are root's in the box. */
  if (umount2("/layers", MNT_DETACH)) fail("unmount /layers");
}

static void bind_path(const struct binding *binding, int map) {
  char source[4096], target[4096];
  snprintf(source, sizeof source, "%s", binding->spec);
  char *inside = strrchr(source, ':');
  errno = EINVAL;
  if (!inside) fail("%s has no place", binding->spec);
  *inside++ = 0;
  snprintf(target, sizeof target, ".%s", inside);
  struct stat found;
  if (stat(source, &found)) fail("stat %s", source);
  if (S_ISDIR(found.st_mode)) {
    make_folder(target);
  } else {
    int file = open(target, O_WRONLY | O_CREAT | O_CLOEXEC, 0444);
    if (file < 0) fail("create %s", target);
    close(file);
  }
  if (mount(source, target, NULL, MS_BIND, NULL)) fail("bind %s", source);
  if (S_ISDIR(found.st_mode) && binding->is_read_only) map_owners(map, target);
  unsigned long flags = MS_BIND | MS_REMOUNT | MS_NOSUID | (S_ISCHR(found.st_mode) ? 0 : MS_NODEV);
  flags |= binding->is_read_only ? MS_RDONLY : MS_NOEXEC;
  if (mount(NULL, target, NULL, flags, NULL)) fail("remount %s", source);
}

static void mount_proc(const char *path) {
  make_folder(path);
  if (mount("proc", path, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)) fail("%s", path);
}

/* An empty file system, which is the new root. */
static void enter_mount(const struct box_root *root) {
  char options[80];
  if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) fail("private mounts");
  snprintf(options, sizeof options, "size=8m,nr_inodes=1024,mode=0755,uid=%u,gid=%u", root->users, root->users);
  if (mount("firkin", root->mount, "tmpfs", MS_NOSUID, options)) fail("new root %s", root->mount);
  if (chdir(root->mount)) fail("enter %s", root->mount);
}

/* Mounts everything and makes it the root. /proc is that of the new process namespace. */
static void make_root(const struct box_root *root) {
  enter_mount(root);
  mount_proc("proc");
  mount_proc("proc-uncovered");
  make_folder("dev");
  for (size_t i = 0; i < root->binding_count; i++) bind_path(&root->bindings[i], root->map);
  for (const char *const *name = (const char *const[]){"state", "tmp", "sys", NULL}; *name; name++) {
    make_folder(*name);
    if (chown(*name, root->users, root->users)) fail("owner of %s", *name);
  }
  int old = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (old < 0) fail("open the old root");
  if (root->disk) mount_disk(root);
  if (fchdir(old) || chroot(".") || chdir(root->mount)) fail("leave the new root");
  close(old);
  if (syscall(SYS_pivot_root, ".", ".")) fail("change root");
  if (umount2(".", MNT_DETACH)) fail("leave the old root");
  if (chdir("/")) fail("enter the new root");
}

/* Fails where a box could not be made whose users are others than the owners of files. */
static void try_owners(const struct box_root *root) {
  if (unshare(CLONE_NEWNS)) fail("mount namespace");
  enter_mount(root);
  for (size_t i = 0; i < root->binding_count; i++) bind_path(&root->bindings[i], root->map);
  make_folder("layers");
  mount_base(root);
  for (const char *const *name = (const char *const[]){"upper", "work", "disk", NULL}; *name; name++)
    make_folder(*name);
  if (mount("disk", "disk", "overlay", 0, "lowerdir=layers/base,upperdir=upper,workdir=work")) fail("overlay");
}

#endif
