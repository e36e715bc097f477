/* The stream table. Output is pulled: a stream makes its next frame when it has its turn and there is room for it. */
#include "streams.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"
#include "bytes.h"

/* Turns taken before the loop looks at the world again. */
enum { TURNS_PER_ROUND = 64, MESSAGE_BYTES = 1024 };

void streams_start(struct stream_table *table) {
  for (size_t i = 0; i < STREAM_BUCKETS; i++) LIST_INIT(&table->buckets[i]);
  TAILQ_INIT(&table->ready);
  LIST_INIT(&table->finished);
  table->count = 0;
}

struct stream *stream_find(struct agent *agent, uint32_t id) {
  struct stream *stream;
  LIST_FOREACH(stream, &agent->streams.buckets[id % STREAM_BUCKETS], bucket) {
    if (stream->id == id) return stream;
  }
  return NULL;
}

struct stream *stream_open(struct agent *agent, uint32_t id) {
  struct stream_table *table = &agent->streams;
  if (table->count >= MAX_STREAMS + MAX_REFUSED) return NULL;
  struct stream *stream = calloc(1, sizeof *stream);
  if (stream == NULL) return NULL;
  stream->agent = agent;
  stream->id = id;
  stream->send_window = INITIAL_WINDOW;
  stream->receive_window = INITIAL_WINDOW;
  LIST_INSERT_HEAD(&table->buckets[id % STREAM_BUCKETS], stream, bucket);
  table->count++;
  return stream;
}

static void release_work(struct stream *stream) {
  const struct stream_work *work = stream->work;
  if (stream->awaits_release) LIST_REMOVE(stream, finished_order);
  stream->awaits_release = false;
  stream->work = NULL;
  if (work != NULL && work->release != NULL) work->release(stream);
  stream->job = NULL;
}

static void stream_close(struct stream *stream) {
  struct stream_table *table = &stream->agent->streams;
  release_work(stream);
  if (stream->ready) TAILQ_REMOVE(&table->ready, stream, turn_order);
  LIST_REMOVE(stream, bucket);
  table->count--;
  free(stream->result);
  free(stream);
}

void streams_forget_all(struct agent *agent) {
  for (size_t i = 0; i < STREAM_BUCKETS; i++) {
    while (!LIST_EMPTY(&agent->streams.buckets[i])) stream_close(LIST_FIRST(&agent->streams.buckets[i]));
  }
}

void stream_begin(struct stream *stream, const struct stream_work *work, void *job) {
  stream->work = work;
  stream->job = job;
  stream_wake(stream);
}

void stream_wake(struct stream *stream) {
  if (stream->ready) return;
  stream->ready = true;
  TAILQ_INSERT_TAIL(&stream->agent->streams.ready, stream, turn_order);
}

void stream_credit(struct stream *stream, size_t count) {
  stream->owed += (uint32_t)count;
  if (stream->owed >= CREDIT_STEP) stream_wake(stream);
}

static void send_window(struct stream *stream) {
  uint8_t *at = link_frame_room(&stream->agent->link);
  put_u32(at + HEADER_BYTES, stream->owed);
  stream->receive_window += stream->owed;
  stream->owed = 0;
  link_send_frame(&stream->agent->link, FRAME_WINDOW, 0, stream->id, 4);
}

static void send_result(struct stream *stream) {
  uint8_t *at = link_frame_room(&stream->agent->link) + HEADER_BYTES;
  put_u16(at, (uint16_t)stream->status);
  if (stream->result_length > 0) memcpy(at + 2, stream->result, stream->result_length);
  link_send_frame(&stream->agent->link, FRAME_RESULT, 0, stream->id, 2 + stream->result_length);
}

/* One turn; may close the stream. */
static void take_turn(struct stream *stream) {
  if (stream->finished) {
    send_result(stream);
    stream_close(stream);
    return;
  }
  if (!stream->input_ended && stream->owed >= CREDIT_STEP) {
    send_window(stream);
    stream_wake(stream);
    return;
  }
  if (stream->work == NULL || stream->work->serve == NULL) return;
  if (stream->work->serve(stream) == TURN_WORKED || stream->finished) stream_wake(stream);
}

void streams_serve(struct agent *agent) {
  struct stream_table *table = &agent->streams;
  for (int i = 0; i < TURNS_PER_ROUND; i++) {
    struct stream *stream = TAILQ_FIRST(&table->ready);
    if (stream == NULL || link_frame_room(&agent->link) == NULL) break;
    TAILQ_REMOVE(&table->ready, stream, turn_order);
    stream->ready = false;
    take_turn(stream);
    streams_release(agent);
  }
}

bool streams_could_go_on(struct agent *agent) {
  return !TAILQ_EMPTY(&agent->streams.ready) && link_frame_room(&agent->link) != NULL;
}

uint8_t *stream_data_room(struct stream *stream, size_t *room) {
  *room = stream->send_window < MAX_PAYLOAD ? stream->send_window : MAX_PAYLOAD;
  return link_frame_room(&stream->agent->link) + HEADER_BYTES;
}

void stream_send_data(struct stream *stream, uint8_t channel, size_t length) {
  stream->send_window -= (uint32_t)length;
  link_send_frame(&stream->agent->link, FRAME_DATA, channel, stream->id, length);
}

void stream_send_end(struct stream *stream) {
  link_send_frame(&stream->agent->link, FRAME_END, 0, stream->id, 0);
}

bool stream_can_send_event(const struct stream *stream) { return stream->send_window >= MAX_PAYLOAD; }

void stream_send_event(struct stream *stream) {
  const struct writer *scratch = &stream->agent->scratch;
  memcpy(link_frame_room(&stream->agent->link) + HEADER_BYTES, scratch->bytes, scratch->length);
  stream->send_window -= (uint32_t)scratch->length;
  link_send_frame(&stream->agent->link, FRAME_EVENT, 0, stream->id, scratch->length);
}

static void finish(struct stream *stream, enum status status, const uint8_t *fields, size_t length) {
  if (stream->finished) return;
  stream->finished = true;
  stream->status = status;
  if (length > 0) stream->result = malloc(length);
  if (stream->result != NULL) {
    memcpy(stream->result, fields, length);
    stream->result_length = length;
  }
  LIST_INSERT_HEAD(&stream->agent->streams.finished, stream, finished_order);
  stream->awaits_release = true;
  stream_wake(stream);
}

void streams_release(struct agent *agent) {
  while (!LIST_EMPTY(&agent->streams.finished)) release_work(LIST_FIRST(&agent->streams.finished));
}

void stream_finish(struct stream *stream, enum status status) { finish(stream, status, NULL, 0); }

void stream_finish_with_scratch(struct stream *stream, enum status status) {
  const struct writer *scratch = &stream->agent->scratch;
  finish(stream, status, scratch->bytes + 2, scratch->length - 2);
}

static void fail_with(struct stream *stream, enum status status, int error, const char *path, const char *message) {
  struct writer *scratch = &stream->agent->scratch;
  writer_start(scratch, 0);
  put_string(scratch, TAG_MESSAGE, message);
  if (error != 0) put_int(scratch, TAG_ERRNO, (uint64_t)error);
  if (path != NULL) put_string(scratch, TAG_PATH, path);
  stream_finish_with_scratch(stream, status);
}

void stream_fail(struct stream *stream, enum status status, const char *format, ...) {
  char message[MESSAGE_BYTES + PATH_BYTES];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  fail_with(stream, status, 0, NULL, message);
}

void stream_fail_errno(struct stream *stream, int error, const char *path, const char *action) {
  char message[MESSAGE_BYTES + PATH_BYTES];
  if (path != NULL) {
    snprintf(message, sizeof message, "%s '%s': %s", action, path, strerror(error));
  } else {
    snprintf(message, sizeof message, "%s: %s", action, strerror(error));
  }
  fail_with(stream, status_of_errno(error), error, path, message);
}

void stream_reset(struct stream *stream) { stream_finish(stream, STATUS_CANCELLED); }

enum status status_of_errno(int error) {
  switch (error) {
    case ECONNREFUSED:
    case ENOENT: return STATUS_NOT_FOUND;
    case EEXIST: return STATUS_ALREADY_EXISTS;
    case EACCES:
    case EPERM:
    case EROFS: return STATUS_PERMISSION_DENIED;
    case ENOTDIR: return STATUS_NOT_A_DIRECTORY;
    case EISDIR: return STATUS_IS_A_DIRECTORY;
    case ELOOP:
    case ENOTEMPTY:
    case EBUSY:
    case EXDEV:
    case ETXTBSY: return STATUS_FAILED_PRECONDITION;
    case EINVAL:
    case ENAMETOOLONG: return STATUS_INVALID_ARGUMENT;
    case ENOSPC:
    case EDQUOT: return STATUS_NO_SPACE;
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case EAGAIN: return STATUS_RESOURCE_EXHAUSTED;
    case EOPNOTSUPP: return STATUS_UNSUPPORTED;
    default: return STATUS_INTERNAL;
  }
}
