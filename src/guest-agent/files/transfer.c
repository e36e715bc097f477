/* READ and WRITE. The bytes go between file and link without a queue. */
#include "files/transfer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "accounts/place.h"
#include "files/attributes.h"
#include "files/entry.h"
#include "files/files.h"
#include "files/parents.h"

struct transfer {
  int fd;
  /* The bytes that READ may still send. */
  uint64_t left;
  bool announced;
  char path[PATH_BYTES];
};

int open_regular(const char *path, int flags) {
  struct stat info;
  bool exists = stat(path, &info) == 0;
  if (exists && !S_ISREG(info.st_mode)) {
    errno = S_ISDIR(info.st_mode) ? EISDIR : EINVAL;
    return -1;
  }
  int fd = open(path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0666);
  if (fd < 0) return -1;
  if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode)) return fd;
  close(fd);
  errno = EINVAL;
  return -1;
}

static void release(struct stream *stream) {
  struct transfer *transfer = stream->job;
  if (transfer->fd >= 0) close(transfer->fd);
  free(transfer);
}

/* A transfer of that file, or NULL with the stream ended. Takes `fd` over. */
static struct transfer *transfer_create(struct stream *stream, int fd, const char *path) {
  struct transfer *transfer = calloc(1, sizeof *transfer);
  if (transfer == NULL) {
    close(fd);
    stream_fail(stream, STATUS_RESOURCE_EXHAUSTED, "out of memory");
    return NULL;
  }
  transfer->fd = fd;
  strcpy(transfer->path, path);
  return transfer;
}

static bool announce(struct stream *stream, struct transfer *transfer) {
  const struct file_room *room = stream->room;
  writer_start(&stream->table->scratch, EVENT_ENTRY);
  if (!put_entry(&stream->table->scratch, &room->accounts->book, transfer->path)) {
    stream_fail_errno(stream, errno, transfer->path, "cannot look at");
    return false;
  }
  stream_send_event(stream);
  transfer->announced = true;
  return true;
}

static enum turn serve_read(struct stream *stream) {
  struct transfer *transfer = stream->job;
  if (!transfer->announced) {
    announce(stream, transfer);
    return TURN_WORKED;
  }
  size_t room;
  uint8_t *at = stream_data_room(stream, &room);
  if (room == 0) return TURN_IDLE;
  if (room > transfer->left) room = (size_t)transfer->left;
  ssize_t count = room == 0 ? 0 : read(transfer->fd, at, room);
  if (count > 0) {
    transfer->left -= (uint64_t)count;
    stream_send_data(stream, CHANNEL_BYTES, (size_t)count);
  } else if (count == 0) {
    stream_finish(stream, STATUS_OK);
  } else if (errno != EINTR) {
    stream_fail_errno(stream, errno, transfer->path, "cannot read");
  }
  return TURN_WORKED;
}

static const struct stream_work read_work = {.serve = serve_read, .release = release};

void open_read(struct request *request) {
  struct place place;
  struct stream *stream = request->stream;
  const struct file_room *room = stream->room;
  uint64_t offset = request_int(request, TAG_OFFSET, 0);
  uint64_t length = request_int(request, TAG_LENGTH, UINT64_MAX);
  if (request->problem == NULL && offset > INT64_MAX) request->problem = "the offset is too large";
  if (!request_place(request, room->accounts, TAG_PATH, &place)) return;
  int fd = open_regular(place.path, O_RDONLY);
  if (fd < 0 || (offset > 0 && lseek(fd, (off_t)offset, SEEK_SET) < 0)) {
    stream_fail_errno(stream, errno, place.path, "cannot read");
    if (fd >= 0) close(fd);
    return;
  }
  struct transfer *transfer = transfer_create(stream, fd, place.path);
  if (transfer == NULL) return;
  transfer->left = length;
  stream_begin(stream, &read_work, transfer);
}

static void write_data(struct stream *stream, struct slice bytes) {
  struct transfer *transfer = stream->job;
  size_t total = bytes.length;
  while (bytes.length > 0) {
    ssize_t count = write(transfer->fd, bytes.bytes, bytes.length);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      stream_fail_errno(stream, errno, transfer->path, "cannot write");
      return;
    }
    bytes.bytes += count;
    bytes.length -= (size_t)count;
  }
  stream_credit(stream, total);
}

static void write_end(struct stream *stream) {
  struct transfer *transfer = stream->job;
  int fd = transfer->fd;
  transfer->fd = -1;
  if (close(fd) != 0) {
    stream_fail_errno(stream, errno, transfer->path, "cannot write");
  } else {
    finish_with_entry(stream, transfer->path);
  }
}

static const struct stream_work write_work = {.data = write_data, .end = write_end, .release = release};

/* Empties the file. One that is empty is left alone, because watchers are told of every truncation as of a write. */
static bool make_empty(int fd) {
  struct stat info;
  return fstat(fd, &info) == 0 && (info.st_size == 0 || ftruncate(fd, 0) == 0);
}

/* Empties the file and gives it owner, attributes and mode. */
static bool prepare(struct request *request, int fd, const struct account *account) {
  if (!make_empty(fd) || !give_to(fd, "", account) || !attributes_replace(fd, request->fields)) return false;
  if (!request_has(request, TAG_MODE)) return true;
  return fchmod(fd, (mode_t)(request_int(request, TAG_MODE, 0) & 07777)) == 0;
}

void open_write(struct request *request) {
  struct place place;
  struct stream *stream = request->stream;
  const struct file_room *room = stream->room;
  request_int(request, TAG_MODE, 0);
  if (!request_place(request, room->accounts, TAG_PATH, &place)) return;
  if (!make_parents(place.path, &place.account)) {
    stream_fail_errno(stream, errno, place.path, "cannot make the parents of");
    return;
  }
  int fd = open_regular(place.path, O_WRONLY | O_CREAT);
  if (fd < 0 || !prepare(request, fd, &place.account)) {
    stream_fail_errno(stream, errno, place.path, "cannot write");
    if (fd >= 0) close(fd);
    return;
  }
  struct transfer *transfer = transfer_create(stream, fd, place.path);
  if (transfer != NULL) stream_begin(stream, &write_work, transfer);
}
