/*
 * Small files. A new content is written beside its place and renamed, unless the present file only needs other bytes.
 */
#include "base/small_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TEMPORARY_BYTES = 4160 };

static bool write_all(int fd, const uint8_t *bytes, size_t length) {
  while (length > 0) {
    ssize_t count = write(fd, bytes, length);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    bytes += count;
    length -= (size_t)count;
  }
  return true;
}

/*
 * Writes over a file that has that length, mode and owner already, because that asks nothing of the disk's journal. It
 * happens every time a restored machine gets a name as long as its last one. A reader may see old and new bytes for a
 * moment.
 */
static bool overwrite(const char *path, const void *content, size_t length, mode_t mode) {
  struct stat info;
  int fd = open(path, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return false;
  bool fits = fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_nlink == 1 && (size_t)info.st_size == length &&
              (info.st_mode & 07777) == mode && info.st_uid == geteuid() && info.st_gid == getegid();
  bool good = fits && write_all(fd, content, length);
  return close(fd) == 0 && good;
}

/* An agent that is not root cannot give files away, and that is no failure. */
static bool give_to_root(int fd) { return fchown(fd, 0, 0) == 0 || (errno == EPERM && geteuid() != 0); }

bool put_file(const char *path, const void *content, size_t length, mode_t mode) {
  char temporary[TEMPORARY_BYTES];
  if (overwrite(path, content, length, mode)) return true;
  snprintf(temporary, sizeof temporary, "%s.firkin-XXXXXX", path);
  int fd = mkostemp(temporary, O_CLOEXEC);
  if (fd < 0) return false;
  bool good = write_all(fd, content, length) && give_to_root(fd) && fchmod(fd, mode) == 0;
  if (close(fd) != 0) good = false;
  if (good && rename(temporary, path) == 0) return true;
  int error = errno;
  unlink(temporary);
  errno = error;
  return false;
}

ssize_t get_file(const char *path, char *out, size_t size) {
  size_t length = 0;
  ssize_t count = 0;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return -1;
  while (length < size - 1 && (count = read(fd, out + length, size - 1 - length)) > 0) length += (size_t)count;
  close(fd);
  out[length] = '\0';
  return count < 0 ? -1 : (ssize_t)length;
}
