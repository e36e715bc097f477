/*
 * Loop devices, which show images as disks. A device is free again when nothing is mounted from it and nobody has it
 * open, however that came about, so there is nothing to clear up.
 */
#ifndef FIRKIN_BOX_LOOPS_H
#define FIRKIN_BOX_LOOPS_H

#include <dirent.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include "../jail/launcher.h"

enum { LOOP_TRIES = 100, LOOP_MAJOR = 7, SHARED_FLAGS = LO_FLAGS_AUTOCLEAR | LO_FLAGS_READ_ONLY };

/* Attaches an image to a free loop device, which is free again when nothing is mounted from it. */
static int attach_loop(const char *image, bool is_read_only, char device[64]) {
  int file = open(image, (is_read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
  if (file < 0) fail("open %s", image);
  int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
  if (control < 0) fail("open /dev/loop-control");
  for (int tried = 0; tried < LOOP_TRIES; tried++) {
    int number = ioctl(control, LOOP_CTL_GET_FREE);
    if (number < 0) fail("a free loop device");
    snprintf(device, 64, "/dev/loop%d", number);
    int loop = open(device, O_RDWR | O_CLOEXEC);
    if (loop < 0 && errno == ENOENT) {
      if (mknod(device, S_IFBLK | 0600, makedev(LOOP_MAJOR, (unsigned)number)) && errno != EEXIST) fail("%s", device);
      loop = open(device, O_RDWR | O_CLOEXEC);
    }
    if (loop < 0) fail("open %s", device);
    struct loop_config config = {.fd = (unsigned)file, .block_size = 4096};
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR | (is_read_only ? LO_FLAGS_READ_ONLY : 0);
    if (ioctl(loop, LOOP_CONFIGURE, &config) == 0) {
      close(control);
      close(file);
      return loop;
    }
    /* Another machine took it first. */
    if (errno != EBUSY) fail("attach %s to %s", image, device);
    close(loop);
  }
  errno = EBUSY;
  fail("no loop device stays free");
}

/* Whether a device shows all of a file, and will never write to it. It stays so as long as it is open. */
static bool shows_file(int loop, const struct stat *file) {
  struct loop_info64 info;
  if (ioctl(loop, LOOP_GET_STATUS64, &info)) return false;
  bool is_whole = info.lo_offset == 0 && info.lo_sizelimit == 0 && (info.lo_flags & SHARED_FLAGS) == SHARED_FLAGS;
  return is_whole && info.lo_device == file->st_dev && info.lo_inode == file->st_ino;
}

/* Opens the device that shows an image already, for other boxes or another daemon; else attaches one. */
static int share_loop(const char *image, char device[64]) {
  struct stat file;
  if (stat(image, &file)) fail("stat %s", image);
  DIR *devices = opendir("/sys/block");
  if (!devices) fail("/sys/block");
  for (struct dirent *entry; (entry = readdir(devices));) {
    char attached[300];
    int number, length = 0;
    if (sscanf(entry->d_name, "loop%d%n", &number, &length) != 1 || entry->d_name[length]) continue;
    snprintf(attached, sizeof attached, "/sys/block/%s/loop", entry->d_name);
    if (access(attached, F_OK)) continue;
    snprintf(device, 64, "/dev/loop%d", number);
    int loop = open(device, O_RDONLY | O_CLOEXEC);
    if (loop >= 0 && shows_file(loop, &file)) {
      closedir(devices);
      return loop;
    }
    if (loop >= 0) close(loop);
  }
  closedir(devices);
  return attach_loop(image, true, device);
}

#endif
