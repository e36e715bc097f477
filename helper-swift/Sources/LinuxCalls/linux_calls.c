#define _GNU_SOURCE
#include "linux_calls.h"

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

ssize_t linux_copy_range(int from, int to, off_t offset, size_t length) {
  off_t target = offset;
  return copy_file_range(from, &offset, to, &target, length, 0);
}

int linux_clone(int from, int to) { return ioctl(to, FICLONE, from); }
