/*
 * Helpers. A child calls sync(), which may take many seconds on a slow disk, so that heartbeats are answered meanwhile.
 */
#include "process/helpers.h"

#include <errno.h>
#include <stddef.h>
#include <sys/wait.h>
#include <unistd.h>

static void release(struct stream *stream) {
  struct helper *helper = stream->job;
  if (helper->stream == stream) helper->stream = NULL;
}

static const struct stream_work waiting = {.release = release};

void open_sync(struct request *request) {
  struct stream *stream = request->stream;
  struct helper_table *table = stream->room;
  struct helper *free_slot = NULL;
  for (int i = 0; i < MAX_HELPERS; i++) {
    if (table->helpers[i].pid == 0) free_slot = &table->helpers[i];
  }
  if (free_slot == NULL) {
    stream_fail(stream, STATUS_RESOURCE_EXHAUSTED, "too many SYNC operations are under way");
    return;
  }
  pid_t pid = fork();
  if (pid == 0) {
    sync();
    _exit(0);
  }
  if (pid < 0) {
    stream_fail_errno(stream, errno, NULL, "cannot start a helper process");
    return;
  }
  *free_slot = (struct helper){.pid = pid, .stream = stream};
  stream_begin(stream, &waiting, free_slot);
}

void helper_reaped(struct helper_table *table, pid_t pid, int wait_status) {
  for (int i = 0; i < MAX_HELPERS; i++) {
    struct helper *helper = &table->helpers[i];
    if (helper->pid != pid) continue;
    helper->pid = 0;
    if (helper->stream == NULL) return;
    bool good = WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0;
    if (good) {
      stream_finish(helper->stream, STATUS_OK);
    } else {
      stream_fail(helper->stream, STATUS_INTERNAL, "the helper process failed");
    }
    return;
  }
}
