/* Small files, put in place as a whole. */
#ifndef FIRKIN_PUT_FILE_H
#define FIRKIN_PUT_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Makes the file one of that content and mode, owned by root. It is never cut short on the way. False with errno. */
bool put_file(const char *path, const void *content, size_t length, mode_t mode);

/* Reads a file of at most `size` - 1 bytes and ends it with a zero. -1 with errno. */
ssize_t get_file(const char *path, char *out, size_t size);

#endif
