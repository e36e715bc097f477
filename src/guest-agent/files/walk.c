/*
 * LIST_DIRECTORY walks in byte order, a piece per turn. It holds the names in the folders on the way, and nothing else.
 * The names of a folder are a heap, so that no step takes long: a sort of all of them at once would hold up the agent.
 */
#include "files/walk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "accounts/place.h"
#include "files/entry.h"
#include "files/files.h"

enum { NAMES_PER_TURN = 1024, ENTRIES_PER_TURN = 128, MAX_NAME_BYTES = 64 << 20, MAX_LEVELS = PATH_BYTES / 2 };

/* A folder whose names are being read (`dir` open) or gone through. `offsets` is a heap with the first name at its top.
 */
struct level {
  DIR *dir;
  /* The names, one after the other, and where each begins. */
  char *names;
  size_t names_length;
  size_t names_capacity;
  uint32_t *offsets;
  size_t count;
  size_t capacity;
  /* The length of this folder's path at the start of `walk.path`. */
  size_t path_length;
};

struct walk {
  struct level *levels;
  size_t depth;
  size_t depth_limit;
  /* The memory for names of all levels together. */
  size_t name_bytes;
  char path[PATH_BYTES];
};

static void level_clear(struct level *level) {
  if (level->dir != NULL) closedir(level->dir);
  free(level->names);
  free(level->offsets);
}

static void pop(struct walk *walk) {
  struct level *level = &walk->levels[--walk->depth];
  walk->name_bytes -= level->names_capacity + level->capacity * sizeof *level->offsets;
  level_clear(level);
}

static void release(struct stream *stream) {
  struct walk *walk = stream->job;
  while (walk->depth > 0) pop(walk);
  free(walk->levels);
  free(walk);
}

/* Goes down into the folder at `walk->path`. False with errno. */
static bool push(struct walk *walk, bool follow) {
  if (walk->depth >= MAX_LEVELS) return false;
  struct level *levels = realloc(walk->levels, (walk->depth + 1) * sizeof *levels);
  if (levels == NULL) return false;
  walk->levels = levels;
  int fd = open(walk->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NONBLOCK | (follow ? 0 : O_NOFOLLOW));
  if (fd < 0) return false;
  DIR *dir = fdopendir(fd);
  if (dir == NULL) {
    close(fd);
    return false;
  }
  levels[walk->depth++] = (struct level){.dir = dir, .path_length = strlen(walk->path)};
  return true;
}

static bool grow(struct walk *walk, struct level *level, size_t name_size) {
  if (level->names_length + name_size > level->names_capacity) {
    size_t capacity = level->names_capacity == 0 ? 4096 : level->names_capacity * 2;
    char *names = realloc(level->names, capacity);
    if (names == NULL) return false;
    walk->name_bytes += capacity - level->names_capacity;
    level->names = names;
    level->names_capacity = capacity;
  }
  if (level->count == level->capacity) {
    size_t capacity = level->capacity == 0 ? 128 : level->capacity * 2;
    uint32_t *offsets = realloc(level->offsets, capacity * sizeof *offsets);
    if (offsets == NULL) return false;
    walk->name_bytes += (capacity - level->capacity) * sizeof *offsets;
    level->offsets = offsets;
    level->capacity = capacity;
  }
  return walk->name_bytes <= MAX_NAME_BYTES;
}

static bool is_before(const struct level *level, uint32_t a, uint32_t b) {
  return strcmp(level->names + a, level->names + b) < 0;
}

/* Adds a name; there is room for its offset. */
static void heap_add(struct level *level, uint32_t offset) {
  size_t at = level->count++;
  for (; at > 0 && is_before(level, offset, level->offsets[(at - 1) / 2]); at = (at - 1) / 2) {
    level->offsets[at] = level->offsets[(at - 1) / 2];
  }
  level->offsets[at] = offset;
}

/* Takes the first name off; there is one. */
static void heap_drop_first(struct level *level) {
  uint32_t last = level->offsets[--level->count];
  size_t at = 0;
  for (size_t child = 1; child < level->count; child = 2 * at + 1) {
    if (child + 1 < level->count && is_before(level, level->offsets[child + 1], level->offsets[child])) child++;
    if (!is_before(level, level->offsets[child], last)) break;
    level->offsets[at] = level->offsets[child];
    at = child;
  }
  level->offsets[at] = last;
}

static bool add_name(struct walk *walk, struct level *level, const char *name) {
  size_t size = strlen(name) + 1;
  if (!grow(walk, level, size)) return false;
  memcpy(level->names + level->names_length, name, size);
  heap_add(level, (uint32_t)level->names_length);
  level->names_length += size;
  return true;
}

/* Reads some names. False when there are too many. */
static bool read_names(const struct stream *stream, struct walk *walk, struct level *level) {
  for (int i = 0; i < NAMES_PER_TURN && (i == 0 || !slice_is_over(stream)); i++) {
    const struct dirent *entry = readdir(level->dir);
    if (entry == NULL) {
      closedir(level->dir);
      level->dir = NULL;
      return true;
    }
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    if (!add_name(walk, level, entry->d_name)) return false;
  }
  return true;
}

/*
 * Writes entries of the deepest folder until the event is full, a folder was entered or the slice is over; returns
 * their number.
 */
static size_t put_entries(struct stream *stream, struct walk *walk) {
  const struct file_room *room = stream->room;
  size_t count = 0;
  bool is_folder;
  for (bool is_first = true; count < ENTRIES_PER_TURN && walk->depth > 0; is_first = false) {
    struct level *level = &walk->levels[walk->depth - 1];
    if (level->dir != NULL || (!is_first && slice_is_over(stream))) break;
    if (level->count == 0) {
      pop(walk);
      continue;
    }
    walk->path[level->path_length] = '\0';
    bool is_joined = path_join(walk->path, level->names + level->offsets[0], walk->path);
    if (!is_joined) {
      heap_drop_first(level);
      continue;
    }
    if (put_listed_entry(&stream->table->scratch, &room->accounts->book, walk->path, &is_folder)) {
      count++;
      heap_drop_first(level);
      if (is_folder && walk->depth < walk->depth_limit) push(walk, false);
    } else if (errno == EOVERFLOW) {
      break;
    } else {
      heap_drop_first(level);
    }
  }
  return count;
}

static enum turn serve(struct stream *stream) {
  struct walk *walk = stream->job;
  if (!stream_can_send_event(stream)) return TURN_IDLE;
  if (walk->depth == 0) {
    stream_finish(stream, STATUS_OK);
    return TURN_WORKED;
  }
  struct level *level = &walk->levels[walk->depth - 1];
  if (level->dir != NULL) {
    if (!read_names(stream, walk, level))
      stream_fail(stream, STATUS_RESOURCE_EXHAUSTED, "the folder has too many entries");
    return TURN_WORKED;
  }
  writer_start(&stream->table->scratch, EVENT_ENTRIES);
  if (put_entries(stream, walk) > 0) stream_send_event(stream);
  return TURN_WORKED;
}

static const struct stream_work walk_work = {.serve = serve, .release = release};

void open_list_directory(struct request *request) {
  struct place place;
  struct stream *stream = request->stream;
  const struct file_room *room = stream->room;
  uint64_t depth = request_int(request, TAG_DEPTH, 1);
  if (!request_place(request, room->accounts, TAG_PATH, &place)) return;
  struct walk *walk = calloc(1, sizeof *walk);
  if (walk == NULL) {
    stream_fail(stream, STATUS_RESOURCE_EXHAUSTED, "out of memory");
    return;
  }
  walk->depth_limit = depth == 0 ? 1 : depth > MAX_LEVELS ? MAX_LEVELS : (size_t)depth;
  strcpy(walk->path, place.path);
  stream_begin(stream, &walk_work, walk);
  if (!push(walk, true)) stream_fail_errno(stream, errno, place.path, "cannot list");
}
