/* Small file-system steps that several operations share. */
#ifndef FIRKIN_FILES_H
#define FIRKIN_FILES_H

#include <stdbool.h>
#include <sys/types.h>

#include "request.h"

/* Makes the folder and those above it that are not there (0755, given to the account). False with errno. */
bool make_folders(const char *path, const struct account *account);

/* The same for the folder that `path` is in. */
bool make_parents(const char *path, const struct account *account);

#endif
