/* The path rules of README.md, section "Paths, users, environment". */
#include "accounts/paths.h"

#include <stdio.h>
#include <string.h>

/* Appends the parts of `path` to the clean absolute path in `out`, taking `.` and `..` out. */
static bool append_clean(char out[PATH_BYTES], size_t *length, const char *path) {
  while (*path != '\0') {
    size_t part = strcspn(path, "/");
    if (part == 2 && path[0] == '.' && path[1] == '.') {
      while (*length > 0 && out[--*length] != '/') {}
    } else if (part > 0 && !(part == 1 && path[0] == '.')) {
      if (*length + 1 + part >= PATH_BYTES) return false;
      out[(*length)++] = '/';
      memcpy(out + *length, path, part);
      *length += part;
    }
    path += part;
    while (*path == '/') path++;
  }
  return true;
}

const char *path_resolve(const char *home, const char *default_cwd, const char *asked, char out[PATH_BYTES]) {
  if (asked[0] == '\0') asked = default_cwd;
  bool below_home = asked[0] != '/';
  if (asked[0] == '~') {
    if (asked[1] != '\0' && asked[1] != '/') return "paths that begin with ~ and another user's name are not supported";
    asked++;
  }
  size_t length = 0;
  bool fits = (!below_home || append_clean(out, &length, home)) && append_clean(out, &length, asked);
  if (!fits) return "a path is too long";
  if (length == 0) out[length++] = '/';
  out[length] = '\0';
  return NULL;
}

bool path_join(const char *folder, const char *name, char out[PATH_BYTES]) {
  size_t length = strlen(folder);
  if (length == 1 && folder[0] == '/') length = 0;
  size_t name_length = strlen(name);
  if (length + 1 + name_length >= PATH_BYTES) return false;
  memmove(out, folder, length);
  out[length] = '/';
  memcpy(out + length + 1, name, name_length + 1);
  return true;
}

const char *path_name(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash == NULL || slash[1] == '\0' ? path : slash + 1;
}

void path_parent(const char *path, char out[PATH_BYTES]) {
  const char *slash = strrchr(path, '/');
  size_t length = slash == NULL || slash == path ? 1 : (size_t)(slash - path);
  memmove(out, path, length);
  if (length == 1) out[0] = '/';
  out[length] = '\0';
}
