/*
 * Loop devices, which show images as disks. A device is free again when nothing is mounted from it and nobody has it
 * open, however that came about, so there is nothing to clear up.
 */
#ifndef FIRKIN_BOX_LOOPS_H
#define FIRKIN_BOX_LOOPS_H

#include <sys/sysmacros.h>

#include "../jail/launcher.h"
#include "loop_devices.h"

enum { LOOP_TRIES = 100, LOOP_MAJOR = 7, SHARED_FLAGS = LO_FLAGS_AUTOCLEAR | LO_FLAGS_READ_ONLY };

/* Attaches an image to a free loop device, which is free again when nothing is mounted from it. */
static int attach_loop(const char *image, bool is_read_only, char device[DEVICE_PATH_BYTES]) {
  int file = open(image, (is_read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
  if (file < 0) fail("open %s", image);
  int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
  if (control < 0) fail("open /dev/loop-control");
  for (int tried = 0; tried < LOOP_TRIES; tried++) {
    int number = ioctl(control, LOOP_CTL_GET_FREE);
    if (number < 0) fail("a free loop device");
    snprintf(device, DEVICE_PATH_BYTES, "/dev/loop%d", number);
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

/* Whether a device shows all of its file, and will never write to it. */
static bool is_shareable(const struct loop_info64 *info) {
  return info->lo_offset == 0 && info->lo_sizelimit == 0 && (info->lo_flags & SHARED_FLAGS) == SHARED_FLAGS;
}

/* Opens the device that shows an image already, for other boxes or another daemon; else attaches one. */
static int share_loop(const char *image, char device[DEVICE_PATH_BYTES]) {
  struct stat file;
  struct loop_info64 info;
  if (stat(image, &file)) fail("stat %s", image);
  int loop = find_loop(&file, O_RDONLY, is_shareable, device, &info);
  if (loop >= 0) return loop;
  if (errno != ENODEV) fail("/sys/block");
  return attach_loop(image, true, device);
}

#endif
