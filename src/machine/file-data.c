/*
 * `file-data FILE BLOCK` prints `FIRST COUNT\n` for each run of blocks of so many bytes that are not all holes, which
 * Node.js cannot find out.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static _Noreturn void fail(const char *what) {
  perror(what);
  exit(1);
}

static void print_data(const char *path, off_t block) {
  off_t first = 0, end = 0;
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) fail(path);
  for (off_t data = 0, hole; (data = lseek(file, data, SEEK_DATA)) >= 0; data = hole) {
    if ((hole = lseek(file, data, SEEK_HOLE)) < 0) fail(path);
    off_t begins = data / block;
    if (begins > end) {
      if (end > first) printf("%ld %ld\n", (long)first, (long)(end - first));
      first = begins;
    }
    if (end == 0) first = begins;
    end = (hole + block - 1) / block;
  }
  if (errno != ENXIO) fail(path);
  if (end > first) printf("%ld %ld\n", (long)first, (long)(end - first));
}

int main(int count, char **arguments) {
  if (count != 3) return 2;
  print_data(arguments[1], atol(arguments[2]));
  return fflush(stdout) != 0;
}
