/* Parents. Folders that are there already, also through links, stay as they are. */
#include "files/parents.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "accounts/paths.h"

static bool make_folder(const char *path, const struct account *account) {
  if (mkdir(path, 0755) == 0) return give_to(AT_FDCWD, path, account);
  if (errno != EEXIST) return false;
  struct stat info;
  if (stat(path, &info) != 0) return false;
  errno = ENOTDIR;
  return S_ISDIR(info.st_mode);
}

bool make_folders(const char *path, const struct account *account) {
  struct stat info;
  char part[PATH_BYTES];
  if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) return true;
  for (size_t end = 1; path[end - 1] != '\0'; end++) {
    if (path[end] != '/' && path[end] != '\0') continue;
    memcpy(part, path, end);
    part[end] = '\0';
    if (!make_folder(part, account)) return false;
    if (path[end] == '\0') break;
  }
  return true;
}

bool make_parents(const char *path, const struct account *account) {
  char parent[PATH_BYTES];
  path_parent(path, parent);
  return make_folders(parent, account);
}
