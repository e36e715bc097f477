/* Paths as clients write them: resolving, joining and taking apart. */
#ifndef FIRKIN_PATHS_H
#define FIRKIN_PATHS_H

#include <stdbool.h>

enum { PATH_BYTES = 4096 };

/*
 * Makes `asked` absolute and lexically clean. Returns NULL, or a sentence about the problem. An empty `default_cwd` is
 * the home.
 */
const char *path_resolve(const char *home, const char *default_cwd, const char *asked, char out[PATH_BYTES]);

/* `folder`/`name`. False when the result is too long. `out` may be `folder`. */
bool path_join(const char *folder, const char *name, char out[PATH_BYTES]);

/* The last part of the path; "/" for the root. */
const char *path_name(const char *path);

/* The path without its last part. The parent of "/x" and of "/" is "/". */
void path_parent(const char *path, char out[PATH_BYTES]);

#endif
