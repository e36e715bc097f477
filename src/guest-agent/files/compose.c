/* COMPOSE joins the files into a new one beside the destination, and then replaces the destination at once. */
#include "files/compose.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "accounts/place.h"
#include "base/string_list.h"
#include "files/entry.h"
#include "files/files.h"
#include "files/parents.h"
#include "files/transfer.h"

enum { STEP_BYTES = 262144, MAX_SOURCES = 4096 };

struct composition {
  struct account account;
  struct string_list sources;
  /* The source that is being copied. */
  size_t current;
  int in;
  int out;
  /* The path of the new file. Empty once the file is in place. */
  char temporary[PATH_BYTES];
  char destination[PATH_BYTES];
};

static void release(struct stream *stream) {
  struct composition *work = stream->job;
  if (work->in >= 0) close(work->in);
  if (work->out >= 0) close(work->out);
  if (work->temporary[0] != '\0') unlink(work->temporary);
  list_clear(&work->sources);
  free(work);
}

/* Puts the joined file in its place and removes its sources. */
static void complete(struct stream *stream, struct composition *work) {
  bool good = give_to(work->out, "", &work->account) && fchmod(work->out, 0644) == 0 &&
              rename(work->temporary, work->destination) == 0;
  if (!good) {
    stream_fail_errno(stream, errno, work->destination, "cannot compose");
    return;
  }
  work->temporary[0] = '\0';
  for (size_t i = 0; i < work->sources.count; i++) {
    if (strcmp(work->sources.items[i], work->destination) != 0) unlink(work->sources.items[i]);
  }
  finish_with_entry(stream, work->destination);
}

static enum turn serve(struct stream *stream) {
  struct composition *work = stream->job;
  if (work->current == work->sources.count) {
    complete(stream, work);
    return TURN_WORKED;
  }
  const char *source = work->sources.items[work->current];
  if (work->in < 0) work->in = open_regular(source, O_RDONLY);
  ssize_t count = work->in < 0 ? -1 : sendfile(work->out, work->in, NULL, STEP_BYTES);
  if (count < 0) {
    stream_fail_errno(stream, errno, source, "cannot compose from");
  } else if (count == 0) {
    close(work->in);
    work->in = -1;
    work->current++;
  }
  return TURN_WORKED;
}

static const struct stream_work compose_work = {.serve = serve, .release = release};

/* Resolves all PATH fields and checks that they are files. False with the stream ended. */
static bool take_sources(struct request *request, struct composition *work) {
  const struct file_room *room = request->stream->room;
  struct slice fields = request->fields, value;
  uint8_t tag;
  char path[PATH_BYTES];
  while (fields_next(&fields, &tag, &value)) {
    if (tag != TAG_PATH) continue;
    char *asked = slice_to_string(value);
    if (asked == NULL) stream_fail(request->stream, STATUS_INVALID_ARGUMENT, "a path holds a NUL byte");
    bool resolved = asked != NULL && request_resolve(request->stream, room->accounts, &work->account, asked, path);
    free(asked);
    if (!resolved) return false;
    struct stat info;
    bool found = stat(path, &info) == 0;
    if (found && !S_ISREG(info.st_mode)) errno = S_ISDIR(info.st_mode) ? EISDIR : EINVAL;
    if (!found || !S_ISREG(info.st_mode)) {
      stream_fail_errno(request->stream, errno, path, "cannot compose from");
      return false;
    }
    if (work->sources.count >= MAX_SOURCES || !list_add(&work->sources, strdup(path))) {
      stream_fail(request->stream, STATUS_RESOURCE_EXHAUSTED, "too many files to compose");
      return false;
    }
  }
  if (work->sources.count == 0) stream_fail(request->stream, STATUS_INVALID_ARGUMENT, "there is nothing to compose");
  return work->sources.count > 0;
}

static bool open_temporary(struct composition *work) {
  char folder[PATH_BYTES];
  path_parent(work->destination, folder);
  if (!make_parents(work->destination, &work->account)) return false;
  if (!path_join(folder, ".firkin-XXXXXX", work->temporary)) {
    work->temporary[0] = '\0';
    errno = ENAMETOOLONG;
    return false;
  }
  work->out = mkostemp(work->temporary, O_CLOEXEC);
  if (work->out < 0) work->temporary[0] = '\0';
  return work->out >= 0;
}

void open_compose(struct request *request) {
  struct place place;
  struct stream *stream = request->stream;
  const struct file_room *room = stream->room;
  if (!request_place(request, room->accounts, TAG_DESTINATION, &place)) return;
  struct composition *work = calloc(1, sizeof *work);
  if (work == NULL) {
    stream_fail(stream, STATUS_RESOURCE_EXHAUSTED, "out of memory");
    return;
  }
  work->account = place.account;
  work->in = -1;
  work->out = -1;
  strcpy(work->destination, place.path);
  stream_begin(stream, &compose_work, work);
  if (!take_sources(request, work)) return;
  if (!open_temporary(work)) stream_fail_errno(stream, errno, work->destination, "cannot compose");
}
