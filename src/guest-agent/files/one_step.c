/* STAT, MAKE_DIRECTORY and MOVE, which need no second turn. */
#include "files/one_step.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "accounts/place.h"
#include "files/entry.h"
#include "files/files.h"
#include "files/parents.h"

void open_stat(struct request *request) {
  struct place place;
  const struct file_room *room = request->stream->room;
  if (request_place(request, room->accounts, TAG_PATH, &place)) finish_with_entry(request->stream, place.path);
}

void open_make_directory(struct request *request) {
  struct place place;
  struct stat info;
  struct stream *stream = request->stream;
  const struct file_room *room = stream->room;
  uint64_t mode = request_int(request, TAG_MODE, 0755);
  if (!request_place(request, room->accounts, TAG_PATH, &place)) return;
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
  const struct file_room *room = stream->room;
  if (!request_place(request, room->accounts, TAG_PATH, &from)) return;
  if (!request_place(request, room->accounts, TAG_DESTINATION, &to)) return;
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
