/* `image FILE BYTES` lets the loop device of a file show so many bytes of it alone; 0: all of it. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static _Noreturn void fail(const char *what) {
  perror(what);
  exit(1);
}

/* Opens the loop device that shows a file. It may be mounted where nobody sees it. */
static int open_device(const char *path, struct loop_info64 *info) {
  char device[300];
  struct stat file;
  if (stat(path, &file)) fail(path);
  DIR *devices = opendir("/sys/block");
  if (!devices) fail("/sys/block");
  for (struct dirent *entry; (entry = readdir(devices));) {
    if (strncmp(entry->d_name, "loop", 4) != 0) continue;
    snprintf(device, sizeof device, "/dev/%s", entry->d_name);
    int loop = open(device, O_RDWR | O_CLOEXEC);
    if (loop < 0) continue;
    // A device without a file has no status.
    if (!ioctl(loop, LOOP_GET_STATUS64, info) && info->lo_device == file.st_dev && info->lo_inode == file.st_ino)
      return loop;
    close(loop);
  }
  errno = ENODEV;
  fail(path);
}

static void limit(const char *path, unsigned long long bytes) {
  struct loop_info64 info;
  int loop = open_device(path, &info);
  if (info.lo_sizelimit == bytes) return;
  info.lo_sizelimit = bytes;
  if (ioctl(loop, LOOP_SET_STATUS64, &info)) fail(path);
}

int main(int count, char **arguments) {
  if (count != 3) return 2;
  limit(arguments[1], strtoull(arguments[2], NULL, 10));
  return 0;
}
