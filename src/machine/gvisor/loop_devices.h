/* Finds the loop device that shows a file. It may be mounted where nobody sees it. */
#ifndef FIRKIN_LOOP_DEVICES_H
#define FIRKIN_LOOP_DEVICES_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEVICE_PATH_BYTES = 64 };

/*
 * Opens the device of a file that fits, and says its path and state; -1 with errno, ENODEV when there is none. A device
 * shows the same file for as long as it is open.
 */
static int find_loop(const struct stat *file, int flags, bool (*fits)(const struct loop_info64 *),
                     char device[DEVICE_PATH_BYTES], struct loop_info64 *info) {
  DIR *devices = opendir("/sys/block");
  if (!devices) return -1;
  int found = -1;
  for (struct dirent *entry; found < 0 && (entry = readdir(devices));) {
    char attached[300];
    int number, length = 0;
    if (sscanf(entry->d_name, "loop%d%n", &number, &length) != 1 || entry->d_name[length]) continue;
    snprintf(attached, sizeof attached, "/sys/block/%s/loop", entry->d_name);
    if (access(attached, F_OK)) continue;
    snprintf(device, DEVICE_PATH_BYTES, "/dev/loop%d", number);
    int loop = open(device, flags | O_CLOEXEC);
    if (loop < 0) continue;
    bool shows_file = !ioctl(loop, LOOP_GET_STATUS64, info) && info->lo_device == file->st_dev &&
                      info->lo_inode == file->st_ino && fits(info);
    if (shows_file)
      found = loop;
    else
      close(loop);
  }
  closedir(devices);
  if (found < 0) errno = ENODEV;
  return found;
}

#endif
