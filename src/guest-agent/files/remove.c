/*
 * REMOVE removes everything below a path, a piece per turn. It holds one folder open, and of the folders above only
 * their identity, so depth costs nothing. An emptied folder is removed when its parent is read again.
 */
#include "files/remove.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "accounts/place.h"
#include "files/files.h"

enum { REMOVALS_PER_TURN = 256, MAX_REMOVE_DEPTH = 1 << 20 };

struct identity {
  dev_t device;
  ino_t inode;
};

struct removal {
  /* The folder that is being emptied; NULL: the path itself is next. */
  DIR *dir;
  /* The folders above `dir`, the path itself first. */
  struct identity *above;
  size_t depth;
  size_t capacity;
  char path[PATH_BYTES];
};

static void release(struct stream *stream) {
  struct removal *removal = stream->job;
  if (removal->dir != NULL) closedir(removal->dir);
  free(removal->above);
  free(removal);
}

/* The outcome of an attempt to remove one name. */
enum attempt { GONE, NOT_EMPTY, FAILED };

static enum attempt remove_name(int folder, const char *name) {
  if (unlinkat(folder, name, 0) == 0 || errno == ENOENT || errno == ENOTDIR) return GONE;
  if (errno != EISDIR && errno != EPERM) return FAILED;
  int error = errno;
  if (unlinkat(folder, name, AT_REMOVEDIR) == 0 || errno == ENOENT) return GONE;
  if (errno == ENOTEMPTY || errno == EEXIST) return NOT_EMPTY;
  if (errno == ENOTDIR) errno = error;
  return FAILED;
}

/* Makes `fd` the folder that is being emptied. False with errno, and with the descriptor closed. */
static bool enter(struct removal *removal, int fd) {
  DIR *dir = fd < 0 ? NULL : fdopendir(fd);
  if (dir == NULL) {
    int error = errno;
    if (fd >= 0) close(fd);
    errno = error;
    return false;
  }
  if (removal->dir != NULL) closedir(removal->dir);
  removal->dir = dir;
  return true;
}

static bool remember_above(struct removal *removal) {
  struct stat info;
  if (removal->depth == removal->capacity) {
    size_t capacity = removal->capacity == 0 ? 16 : removal->capacity * 2;
    struct identity *above = capacity > MAX_REMOVE_DEPTH ? NULL : realloc(removal->above, capacity * sizeof *above);
    errno = ENOMEM;
    if (above == NULL) return false;
    removal->above = above;
    removal->capacity = capacity;
  }
  if (fstat(dirfd(removal->dir), &info) != 0) return false;
  removal->above[removal->depth++] = (struct identity){info.st_dev, info.st_ino};
  return true;
}

static int open_folder(int folder, const char *name) {
  return openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
}

static bool descend(struct removal *removal, const char *name) {
  if (!remember_above(removal)) return false;
  return enter(removal, open_folder(dirfd(removal->dir), name));
}

/* Goes back to the folder above, if that is still the folder that the removal came from. */
static bool ascend(struct removal *removal) {
  struct stat info;
  if (removal->depth == 0) {
    closedir(removal->dir);
    removal->dir = NULL;
    return true;
  }
  const struct identity *expected = &removal->above[--removal->depth];
  if (!enter(removal, open_folder(dirfd(removal->dir), "..")) || fstat(dirfd(removal->dir), &info) != 0) return false;
  errno = EBUSY;
  return info.st_dev == expected->device && info.st_ino == expected->inode;
}

/* Removes the next name of the open folder. False with errno. */
static bool remove_next(struct removal *removal) {
  errno = 0;
  const struct dirent *entry = readdir(removal->dir);
  if (entry == NULL) return errno == 0 && ascend(removal);
  if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) return true;
  switch (remove_name(dirfd(removal->dir), entry->d_name)) {
    case GONE: return true;
    case NOT_EMPTY: return descend(removal, entry->d_name);
    default: return false;
  }
}

static enum turn serve(struct stream *stream) {
  struct removal *removal = stream->job;
  bool good = true;
  if (removal->dir == NULL) {
    switch (remove_name(AT_FDCWD, removal->path)) {
      case GONE: stream_finish(stream, STATUS_OK); return TURN_WORKED;
      case NOT_EMPTY: good = enter(removal, open_folder(AT_FDCWD, removal->path)); break;
      default: good = false;
    }
  }
  for (int i = 0; good && removal->dir != NULL && i < REMOVALS_PER_TURN; i++) {
    good = remove_next(removal);
    if (slice_is_over(stream)) break;
  }
  if (!good) stream_fail_errno(stream, errno, removal->path, "cannot remove");
  return TURN_WORKED;
}

static const struct stream_work remove_work = {.serve = serve, .release = release};

void open_remove(struct request *request) {
  struct place place;
  struct stream *stream = request->stream;
  const struct file_room *room = stream->room;
  if (!request_place(request, room->accounts, TAG_PATH, &place)) return;
  if (strcmp(place.path, "/") == 0) {
    stream_fail(stream, STATUS_INVALID_ARGUMENT, "the root folder cannot be removed");
    return;
  }
  struct removal *removal = calloc(1, sizeof *removal);
  if (removal == NULL) {
    stream_fail(stream, STATUS_RESOURCE_EXHAUSTED, "out of memory");
    return;
  }
  strcpy(removal->path, place.path);
  stream_begin(stream, &remove_work, removal);
}
