/* Entries: the group ENTRY of a file or folder. */
#ifndef FIRKIN_ENTRY_H
#define FIRKIN_ENTRY_H

#include <stdbool.h>
#include <sys/stat.h>

#include "accounts/book.h"
#include "link/fields.h"
#include "link/streams.h"

/*
 * Writes an ENTRY for an absolute path. False with errno and nothing written when there is no such entry, or no room
 * (EOVERFLOW).
 */
bool put_entry(struct writer *writer, struct account_book *book, const char *path);

/* The same. `is_folder` becomes true for a folder, and false for a link to one. */
bool put_listed_entry(struct writer *writer, struct account_book *book, const char *path, bool *is_folder);

/* Ends a stream of this room `ok` with the ENTRY of that path, or with the failure to get the ENTRY. */
void finish_with_entry(struct stream *stream, const char *path);

enum { MAX_ATTRIBUTE_BYTES = 16384 };

/* The beginning of every attribute's name, which clients do not see. */
extern const char attribute_prefix[];

#endif
