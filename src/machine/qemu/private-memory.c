/*
 * Preloaded into QEMU: opens the image that a restored machine's memory is mapped from for reading only.
 *
 * QEMU before 8.2 opens a memory file for reading and writing even where it maps it privately, and fails if it may not
 * write. The image belongs to a template and is shared by all its machines, so no QEMU gets the right to write to it.
 * The variable FIRKIN_READ_ONLY has the image's path.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int flags_for(const char *path, int flags) {
  const char *image = getenv("FIRKIN_READ_ONLY");
  if (!image || strcmp(path, image) != 0 || (flags & O_ACCMODE) != O_RDWR) return flags;
  return (flags & ~O_ACCMODE) | O_RDONLY;
}

#define OPEN(name)                                                              \
  int name(const char *path, int flags, ...) {                                  \
    static int (*next)(const char *, int, ...);                                 \
    va_list rest;                                                               \
    va_start(rest, flags);                                                      \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;     \
    va_end(rest);                                                               \
    if (!next) next = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name); \
    return next(path, flags_for(path, flags), mode);                            \
  }

/* What a compiler makes of a call without a mode, when it checks such calls. */
#define OPEN_CHECKED(name)                                                 \
  int name(const char *path, int flags) {                                  \
    static int (*next)(const char *, int);                                 \
    if (!next) next = (int (*)(const char *, int))dlsym(RTLD_NEXT, #name); \
    return next(path, flags_for(path, flags));                             \
  }

int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);

OPEN(open)
OPEN(open64)
OPEN_CHECKED(__open_2)
OPEN_CHECKED(__open64_2)
