/* Paths as clients write them. */
#ifndef FIRKIN_PATHS_H
#define FIRKIN_PATHS_H

#include <stdbool.h>

#include "request.h"

/* Makes `asked` absolute and lexically clean. Returns NULL, or what is wrong with it. An empty `default_cwd` is the home. */
const char *path_resolve(const char *home, const char *default_cwd, const char *asked, char out[PATH_BYTES]);

/* `folder`/`name`; false when that is too long. `out` may be `folder`. */
bool path_join(const char *folder, const char *name, char out[PATH_BYTES]);

/* The last part; "/" of the root. */
const char *path_name(const char *path);

/* Cuts the last part off; the parent of "/x" and "/" is "/". */
void path_parent(const char *path, char out[PATH_BYTES]);

#endif
