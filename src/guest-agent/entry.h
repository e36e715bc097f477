/* What the protocol says of a file-system entry. */
#ifndef FIRKIN_ENTRY_H
#define FIRKIN_ENTRY_H

#include <stdbool.h>
#include <sys/stat.h>

#include "fields.h"
#include "request.h"
#include "users.h"

/* Writes an ENTRY for an absolute path; false with errno, and nothing written, when there is none or it does not fit (EOVERFLOW). */
bool put_entry(struct writer *writer, struct account_book *book, const char *path);

/* The same; says also whether it is itself a folder, no link to one. */
bool put_listed_entry(struct writer *writer, struct account_book *book, const char *path, bool *is_folder);

/* Ends the stream `ok` with the ENTRY of that path, or with the failure to get it. */
void finish_with_entry(struct stream *stream, const char *path);

enum { MAX_ATTRIBUTE_BYTES = 16384 };

/* The part of an attribute's name that clients do not see. */
extern const char attribute_prefix[];

#endif
