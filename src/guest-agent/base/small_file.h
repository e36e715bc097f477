/* Small files, read and replaced as a whole. */
#ifndef FIRKIN_SMALL_FILE_H
#define FIRKIN_SMALL_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/*
 * Gives the file that content and mode, and root as its owner. Readers never see the file cut short. False with errno.
 */
bool put_file(const char *path, const void *content, size_t length, mode_t mode);

/* Reads at most `size` - 1 bytes of the file, ends them with a zero and returns their number; -1 with errno. */
ssize_t get_file(const char *path, char *out, size_t size);

#endif
