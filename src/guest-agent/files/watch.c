/*
 * WATCH has one inotify instance per stream. A folder that appears later is scanned after its watch begins, so that
 * entries made in between are reported too, once.
 */
#include "files/watch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "accounts/place.h"
#include "base/bytes.h"
#include "base/loop.h"
#include "base/string_list.h"
#include "files/entry.h"
#include "files/files.h"
#include "files/watch_folders.h"

enum {
  MAX_QUEUED = 65536,
  WATCHED = IN_CREATE | IN_MODIFY | IN_ATTRIB | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF,
};

struct watch {
  struct event_source source;
  struct stream *stream;
  bool readable;
  bool recursive;
  bool include_entry;
  bool started;
  struct folder_table folders;
  /* Folders without a watch yet. The last one is next. */
  struct string_list pending;
  /* Entries that were found in new folders and must be reported as created. `reported` of them are done. */
  struct string_list found;
  size_t reported;
  /*
   * Found files with content. They are reported as written once `unread` bytes of events are looked at, which were
   * queued when the last of them was found, unless one of those events says the same.
   */
  struct string_list written;
  size_t unread;
  /* The last mark that the host has asked for, and the last one that was sent. */
  uint64_t mark_wanted;
  uint64_t mark_sent;
  /* Events that were read and not yet looked at. */
  size_t head;
  size_t length;
  uint8_t buffer[16384] __attribute__((aligned(__alignof__(struct inotify_event))));
  char root[PATH_BYTES];
};

static void release(struct stream *stream) {
  struct watch *watch = stream->job;
  const struct file_room *room = stream->room;
  loop_remove(room->loop, &watch->source);
  folders_clear(&watch->folders);
  list_clear(&watch->pending);
  list_clear(&watch->found);
  list_clear(&watch->written);
  free(watch);
}

static void fail(struct watch *watch, enum status status, const char *message) {
  stream_fail(watch->stream, status, "%s: '%s'", message, watch->root);
}

/* `folder`/`name` below the root. The root's own name is empty. */
static bool join_below(const char *folder, const char *name, char out[PATH_BYTES]) {
  if (folder[0] != '\0') return path_join(folder, name, out);
  strcpy(out, name);
  return true;
}

static bool absolute(const struct watch *watch, const char *below, char out[PATH_BYTES]) {
  if (below[0] != '\0') return path_join(watch->root, below, out);
  strcpy(out, watch->root);
  return true;
}

static bool is_folder(int folder, const struct dirent *entry) {
  struct stat info;
  if (entry->d_type != DT_UNKNOWN) return entry->d_type == DT_DIR;
  return fstatat(folder, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(info.st_mode);
}

/* Notes the entries of a folder that has just got its watch. False when there are too many. */
static bool scan_names(struct watch *watch, struct folder *folder, DIR *dir) {
  char below[PATH_BYTES];
  const struct dirent *entry;
  while ((entry = readdir(dir)) != NULL) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    if (!join_below(folder->below, entry->d_name, below)) continue;
    if (watch->started) {
      if (watch->found.count >= MAX_QUEUED || !list_add(&watch->found, strdup(below))) return false;
      if (!list_add(&folder->found, strdup(entry->d_name))) return false;
    }
    if (!is_folder(dirfd(dir), entry)) continue;
    if (watch->pending.count >= MAX_QUEUED || !list_add(&watch->pending, strdup(below))) return false;
  }
  return true;
}

/* Watches a folder and, when recursive, notes the folders in it. Only the root must still be there by now. */
static void add_folder(struct watch *watch, const char *below) {
  char path[PATH_BYTES];
  bool is_root = below[0] == '\0';
  if (!absolute(watch, below, path)) return;
  int wd = inotify_add_watch(watch->source.fd, path, WATCHED | IN_ONLYDIR | (is_root ? 0 : IN_DONT_FOLLOW));
  if (wd < 0 && (is_root || errno == ENOSPC || errno == ENOMEM)) {
    /* ENOSPC stands for the user's limit of watches. */
    stream_fail_errno(watch->stream, errno == ENOSPC ? ENOMEM : errno, path, "cannot watch");
  }
  if (wd < 0) return;
  struct folder *folder = folders_add(&watch->folders, wd, below);
  if (folder == NULL) {
    fail(watch, STATUS_RESOURCE_EXHAUSTED, "too many folders to watch");
    return;
  }
  if (!watch->recursive) return;
  DIR *dir = opendir(path);
  if (dir == NULL) return;
  bool good = scan_names(watch, folder, dir);
  closedir(dir);
  if (!good) fail(watch, STATUS_RESOURCE_EXHAUSTED, "too much to watch");
}

static void add_pending(struct watch *watch) {
  char *below = watch->pending.items[--watch->pending.count];
  add_folder(watch, below);
  free(below);
}

static void send_change(struct watch *watch, const char *below, enum change_kind kind) {
  const struct file_room *room = watch->stream->room;
  struct writer *scratch = &watch->stream->table->scratch;
  char path[PATH_BYTES];
  bool may_exist = kind == CHANGE_CREATE || kind == CHANGE_WRITE || kind == CHANGE_CHMOD;
  writer_start(scratch, EVENT_CHANGED);
  put_string(scratch, TAG_NAME, below);
  put_int(scratch, TAG_KIND, kind);
  if (watch->include_entry && may_exist && absolute(watch, below, path)) {
    book_expire(&room->accounts->book);
    put_entry(scratch, &room->accounts->book, path);
  }
  stream_send_event(watch->stream);
}

static bool has_content(const struct watch *watch, const char *below) {
  char path[PATH_BYTES];
  struct stat info;
  return absolute(watch, below, path) && lstat(path, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0;
}

static void note_written(struct watch *watch, const char *below) {
  int queued = 0;
  ioctl(watch->source.fd, FIONREAD, &queued);
  watch->unread = watch->length - watch->head + (size_t)queued;
  if (!list_add(&watch->written, strdup(below))) fail(watch, STATUS_RESOURCE_EXHAUSTED, "out of memory to watch");
}

/* A found entry was created before its folder had a watch. */
static void report_found(struct watch *watch) {
  const char *below = watch->found.items[watch->reported];
  send_change(watch, below, CHANGE_CREATE);
  if (has_content(watch, below)) note_written(watch, below);
  if (++watch->reported < watch->found.count) return;
  list_clear(&watch->found);
  watch->reported = 0;
}

static void drop_written(struct watch *watch, size_t at) {
  struct string_list *list = &watch->written;
  free(list->items[at]);
  list->items[at] = list->items[--list->count];
}

/* An event tells of a write to this file, so that the file need not be reported once more. */
static void forget_written(struct watch *watch, const char *below) {
  for (size_t i = 0; i < watch->written.count; i++) {
    if (strcmp(watch->written.items[i], below) != 0) continue;
    drop_written(watch, i);
    return;
  }
}

static void report_written(struct watch *watch) {
  size_t last = watch->written.count - 1;
  if (has_content(watch, watch->written.items[last])) send_change(watch, watch->written.items[last], CHANGE_WRITE);
  drop_written(watch, last);
}

static void send_mark(struct watch *watch) {
  watch->mark_sent = watch->mark_wanted;
  writer_start(&watch->stream->table->scratch, EVENT_MARK);
  put_int(&watch->stream->table->scratch, TAG_COUNT, watch->mark_sent);
  stream_send_event(watch->stream);
}

static enum change_kind kind_of(uint32_t mask) {
  if (mask & (IN_CREATE | IN_MOVED_TO)) return CHANGE_CREATE;
  if (mask & IN_MODIFY) return CHANGE_WRITE;
  if (mask & IN_DELETE) return CHANGE_REMOVE;
  return mask & IN_MOVED_FROM ? CHANGE_RENAME : CHANGE_CHMOD;
}

/* Follows folders that come and go with the set of watches. */
static void follow_folders(struct watch *watch, const char *below, uint32_t mask) {
  if (!watch->recursive || !(mask & IN_ISDIR)) return;
  if (mask & IN_MOVED_FROM) folders_drop_below(&watch->folders, watch->source.fd, below);
  if (!(mask & (IN_CREATE | IN_MOVED_TO))) return;
  if (!list_add(&watch->pending, strdup(below))) fail(watch, STATUS_RESOURCE_EXHAUSTED, "out of memory to watch");
}

/* An event about an entry of a watched folder. */
static void take_change(struct watch *watch, struct folder *folder, const struct inotify_event *event) {
  char below[PATH_BYTES];
  bool known = folder_forget_found(folder, event->name) && (event->mask & IN_CREATE) != 0;
  if (known || !join_below(folder->below, event->name, below)) return;
  if (event->mask & IN_MODIFY) forget_written(watch, below);
  send_change(watch, below, kind_of(event->mask));
  follow_folders(watch, below, event->mask);
}

static void take_event(struct watch *watch, const struct inotify_event *event) {
  if (event->mask & IN_Q_OVERFLOW) {
    fail(watch, STATUS_RESOURCE_EXHAUSTED, "changes came too fast and some were lost");
    return;
  }
  struct folder *folder = folders_find(&watch->folders, event->wd);
  if (folder == NULL) return;
  bool is_root = folder->below[0] == '\0';
  bool is_gone = (event->mask & (IN_IGNORED | IN_UNMOUNT | IN_DELETE_SELF | (is_root ? IN_MOVE_SELF : 0))) != 0;
  if (is_gone && is_root) {
    fail(watch, STATUS_NOT_FOUND, "the watched folder is gone");
  } else if (is_gone) {
    folders_drop(&watch->folders, event->wd);
  } else if (event->len > 0) {
    take_change(watch, folder, event);
  }
}

/* Reads more events. False when there are none now. */
static bool read_events(struct watch *watch) {
  if (!watch->readable) return false;
  ssize_t count = read(watch->source.fd, watch->buffer, sizeof watch->buffer);
  watch->head = 0;
  watch->length = count > 0 ? (size_t)count : 0;
  if (count > 0) return true;
  watch->readable = false;
  folders_forget_found(&watch->folders);
  return false;
}

static enum turn serve(struct stream *stream) {
  struct watch *watch = stream->job;
  if (!stream_can_send_event(stream)) return TURN_IDLE;
  if (watch->found.count > 0) {
    report_found(watch);
  } else if (watch->pending.count > 0) {
    add_pending(watch);
  } else if (!watch->started) {
    writer_start(&stream->table->scratch, EVENT_STARTED);
    put_bool(&stream->table->scratch, TAG_MARKS, true);
    stream_send_event(stream);
    watch->started = true;
  } else if (watch->written.count > 0 && watch->unread == 0) {
    report_written(watch);
  } else if (watch->head < watch->length || read_events(watch)) {
    const struct inotify_event *event = (const struct inotify_event *)(const void *)(watch->buffer + watch->head);
    size_t size = sizeof *event + event->len;
    watch->head += size;
    watch->unread -= size < watch->unread ? size : watch->unread;
    take_event(watch, event);
  } else if (watch->written.count > 0) {
    report_written(watch);
  } else if (watch->mark_sent != watch->mark_wanted) {
    send_mark(watch);
  } else {
    return TURN_IDLE;
  }
  return TURN_WORKED;
}

/* The kernel has queued the events of every change before now, so the mark follows them once the queue is read. */
static void control(struct stream *stream, uint16_t kind, struct slice fields) {
  struct watch *watch = stream->job;
  struct slice count;
  if (kind != CONTROL_MARK || !fields_find(fields, TAG_COUNT, &count) || count.length != 8) return;
  watch->mark_wanted = get_u64(count.bytes);
  watch->readable = true;
  stream_wake(stream);
}

static void notice(struct event_source *source, uint32_t events) {
  struct watch *watch = (struct watch *)((char *)source - offsetof(struct watch, source));
  (void)events;
  watch->readable = true;
  stream_wake(watch->stream);
}

static const struct stream_work watch_work = {.serve = serve, .control = control, .release = release};

static struct watch *watch_create(struct stream *stream, const char *root) {
  const struct file_room *room = stream->room;
  struct watch *watch = calloc(1, sizeof *watch);
  int fd = watch == NULL ? -1 : inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
  if (fd < 0 || !loop_add(room->loop, &watch->source, fd, notice)) {
    stream_fail_errno(stream, errno, root, "cannot watch");
    if (fd >= 0) close(fd);
    free(watch);
    return NULL;
  }
  watch->stream = stream;
  watch->readable = true;
  strcpy(watch->root, root);
  return watch;
}

/* True for a file system that other machines change without this kernel's knowledge. */
static bool is_on_network(const char *path) {
  struct statfs info;
  if (statfs(path, &info) != 0) return false;
  switch ((uint32_t)info.f_type) {
    case NFS_SUPER_MAGIC:
    case SMB_SUPER_MAGIC:
    case SMB2_SUPER_MAGIC:
    case CIFS_SUPER_MAGIC:
    case FUSE_SUPER_MAGIC: return true;
    default: return false;
  }
}

void open_watch(struct request *request) {
  struct place place;
  struct stat info;
  struct stream *stream = request->stream;
  const struct file_room *room = stream->room;
  bool recursive = request_bool(request, TAG_RECURSIVE);
  bool include_entry = request_bool(request, TAG_INCLUDE_ENTRY);
  bool allow_network = request_bool(request, TAG_ALLOW_NETWORK_MOUNTS);
  if (!request_place(request, room->accounts, TAG_PATH, &place)) return;
  bool found = stat(place.path, &info) == 0;
  if (!found || !S_ISDIR(info.st_mode)) {
    stream_fail_errno(stream, found ? ENOTDIR : errno, place.path, "cannot watch");
    return;
  }
  if (!allow_network && is_on_network(place.path)) {
    stream_fail(stream, STATUS_INVALID_ARGUMENT, "cannot watch path on network filesystem: %s", place.path);
    return;
  }
  struct watch *watch = watch_create(stream, place.path);
  if (watch == NULL) return;
  watch->recursive = recursive;
  watch->include_entry = include_entry;
  stream_begin(stream, &watch_work, watch);
  add_folder(watch, "");
}
