/* STAT, MAKE_DIRECTORY and MOVE: operations of one step. */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "agent.h"
#include "entry.h"
#include "operations.h"
#include "paths.h"

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

void open_stat(struct request *request) {
  struct place place;
  if (request_place(request, TAG_PATH, &place)) finish_with_entry(request->stream, place.path);
}

void open_make_directory(struct request *request) {
  struct place place;
  struct stat info;
  struct stream *stream = request->stream;
  uint64_t mode = request_int(request, TAG_MODE, 0755);
  if (!request_place(request, TAG_PATH, &place)) return;
  if (stat(place.path, &info) == 0) {
    bool is_folder = S_ISDIR(info.st_mode);
    stream_fail(stream, is_folder ? STATUS_ALREADY_EXISTS : STATUS_INVALID_ARGUMENT,
                is_folder ? "directory '%s' already exists" : "'%s' exists and is not a directory", place.path);
    return;
  }
  if (!make_folders(place.path, &place.account) || chmod(place.path, (mode_t)(mode & 07777)) != 0) {
    stream_fail_errno(stream, errno, place.path, "cannot make directory");
    return;
  }
  finish_with_entry(stream, place.path);
}

void open_move(struct request *request) {
  struct place from, to;
  struct stat info;
  struct stream *stream = request->stream;
  if (!request_place(request, TAG_PATH, &from) || !request_place(request, TAG_DESTINATION, &to)) return;
  if (lstat(from.path, &info) != 0) {
    stream_fail_errno(stream, errno, from.path, "cannot move");
    return;
  }
  if (!make_parents(to.path, &to.account)) {
    stream_fail_errno(stream, errno, to.path, "cannot make the parents of");
    return;
  }
  if (rename(from.path, to.path) != 0) {
    stream_fail_errno(stream, errno, errno == ENOENT ? from.path : to.path, "cannot move to");
    return;
  }
  finish_with_entry(stream, to.path);
}
