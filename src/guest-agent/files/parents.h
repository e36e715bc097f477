/* Parents: the folders that a new file or folder needs. */
#ifndef FIRKIN_PARENTS_H
#define FIRKIN_PARENTS_H

#include <stdbool.h>

#include "accounts/book.h"

/* Makes the folder and the missing folders above it (0755, given to the account). False with errno. */
bool make_folders(const char *path, const struct account *account);

/* The same for the parent folder of `path`. */
bool make_parents(const char *path, const struct account *account);

#endif
