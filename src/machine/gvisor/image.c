/* `image FILE BYTES` lets the loop device of a file show so many bytes of it alone; 0: all of it. */
#define _GNU_SOURCE
#include <stdlib.h>

#include "loop_devices.h"

static _Noreturn void fail(const char *what) {
  perror(what);
  exit(1);
}

static bool any(const struct loop_info64 *info) {
  (void)info;
  return true;
}

static void limit(const char *path, unsigned long long bytes) {
  struct stat file;
  struct loop_info64 info;
  char device[DEVICE_PATH_BYTES];
  if (stat(path, &file)) fail(path);
  int loop = find_loop(&file, O_RDWR, any, device, &info);
  if (loop < 0) fail(path);
  if (info.lo_sizelimit == bytes) return;
  info.lo_sizelimit = bytes;
  if (ioctl(loop, LOOP_SET_STATUS64, &info)) fail(path);
}

int main(int count, char **arguments) {
  if (count != 3) return 2;
  limit(arguments[1], strtoull(arguments[2], NULL, 10));
  return 0;
}
