/* The stream table. Output is pulled: a stream makes its next frame in its turn, when there is room for the frame. */
#include "link/streams.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/loop.h"

enum {
  /* Turns that are taken before the event loop looks for events again. */
  TURNS_PER_ROUND = 64,
  /* And the time for them. */
  ROUND_MS = 20,
  SLICE_MS = 5,
  /* A path of 4,095 bytes and the words around it. */
  MESSAGE_BYTES = 1024 + 4096,
};

void streams_start(struct stream_table *table, struct output *output) {
  table->output = output;
  table->scratch = (struct writer){.bytes = table->scratch_bytes, .capacity = sizeof table->scratch_bytes};
  for (size_t i = 0; i < STREAM_BUCKETS; i++) LIST_INIT(&table->buckets[i]);
  TAILQ_INIT(&table->ready);
  LIST_INIT(&table->finished);
  table->count = 0;
}

struct stream *stream_find(struct stream_table *table, uint32_t id) {
  struct stream *stream;
  LIST_FOREACH(stream, &table->buckets[id % STREAM_BUCKETS], bucket) {
    if (stream->id == id) return stream;
  }
  return NULL;
}

struct stream *stream_open(struct stream_table *table, uint32_t id) {
  if (table->count >= MAX_STREAMS + MAX_REFUSED) return NULL;
  struct stream *stream = calloc(1, sizeof *stream);
  if (stream == NULL) return NULL;
  stream->table = table;
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
  struct stream_table *table = stream->table;
  release_work(stream);
  if (stream->ready) TAILQ_REMOVE(&table->ready, stream, turn_order);
  LIST_REMOVE(stream, bucket);
  table->count--;
  free(stream->result);
  free(stream);
}

void streams_forget_all(struct stream_table *table) {
  for (size_t i = 0; i < STREAM_BUCKETS; i++) {
    while (!LIST_EMPTY(&table->buckets[i])) stream_close(LIST_FIRST(&table->buckets[i]));
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
  TAILQ_INSERT_TAIL(&stream->table->ready, stream, turn_order);
}

void stream_credit(struct stream *stream, size_t count) {
  stream->owed += (uint32_t)count;
  if (stream->owed >= CREDIT_STEP) stream_wake(stream);
}

static void send_window(struct stream *stream) {
  uint8_t *at = output_frame_room(stream->table->output);
  put_u32(at + HEADER_BYTES, stream->owed);
  stream->receive_window += stream->owed;
  stream->owed = 0;
  output_add_frame(stream->table->output, FRAME_WINDOW, 0, stream->id, 4);
}

static void send_result(struct stream *stream) {
  uint8_t *at = output_frame_room(stream->table->output) + HEADER_BYTES;
  put_u16(at, (uint16_t)stream->status);
  if (stream->result_length > 0) memcpy(at + 2, stream->result, stream->result_length);
  output_add_frame(stream->table->output, FRAME_RESULT, 0, stream->id, 2 + stream->result_length);
}

/* One turn. The stream may be gone afterwards. */
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

bool slice_is_over(const struct stream *stream) { return now_ms() >= stream->table->slice_end_ms; }

void streams_serve(struct stream_table *table) {
  int64_t now = now_ms();
  int64_t round_end_ms = now + ROUND_MS;
  for (int i = 0; i < TURNS_PER_ROUND && now < round_end_ms; i++, now = now_ms()) {
    struct stream *stream = TAILQ_FIRST(&table->ready);
    if (stream == NULL || output_frame_room(table->output) == NULL) break;
    table->slice_end_ms = now + SLICE_MS;
    TAILQ_REMOVE(&table->ready, stream, turn_order);
    stream->ready = false;
    take_turn(stream);
    streams_release(table);
  }
}

bool streams_could_go_on(struct stream_table *table) {
  return !TAILQ_EMPTY(&table->ready) && output_frame_room(table->output) != NULL;
}

uint8_t *stream_data_room(struct stream *stream, size_t *room) {
  *room = stream->send_window < MAX_PAYLOAD ? stream->send_window : MAX_PAYLOAD;
  return output_frame_room(stream->table->output) + HEADER_BYTES;
}

void stream_send_data(struct stream *stream, uint8_t channel, size_t length) {
  stream->send_window -= (uint32_t)length;
  output_add_frame(stream->table->output, FRAME_DATA, channel, stream->id, length);
}

void stream_send_end(struct stream *stream) { output_add_frame(stream->table->output, FRAME_END, 0, stream->id, 0); }

bool stream_can_send_event(const struct stream *stream) { return stream->send_window >= MAX_PAYLOAD; }

void stream_send_event(struct stream *stream) {
  const struct writer *scratch = &stream->table->scratch;
  memcpy(output_frame_room(stream->table->output) + HEADER_BYTES, scratch->bytes, scratch->length);
  stream->send_window -= (uint32_t)scratch->length;
  output_add_frame(stream->table->output, FRAME_EVENT, 0, stream->id, scratch->length);
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
  LIST_INSERT_HEAD(&stream->table->finished, stream, finished_order);
  stream->awaits_release = true;
  /* A RESULT costs nothing to make, so it does not wait for the turns of streams that work. */
  if (stream->ready) TAILQ_REMOVE(&stream->table->ready, stream, turn_order);
  stream->ready = true;
  TAILQ_INSERT_HEAD(&stream->table->ready, stream, turn_order);
}

void streams_release(struct stream_table *table) {
  while (!LIST_EMPTY(&table->finished)) release_work(LIST_FIRST(&table->finished));
}

void stream_finish(struct stream *stream, enum status status) { finish(stream, status, NULL, 0); }

void stream_finish_with_scratch(struct stream *stream, enum status status) {
  const struct writer *scratch = &stream->table->scratch;
  finish(stream, status, scratch->bytes + 2, scratch->length - 2);
}

static enum status status_of_errno(int error) {
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

static void fail_with(struct stream *stream, enum status status, int error, const char *path, const char *message) {
  struct writer *scratch = &stream->table->scratch;
  writer_start(scratch, 0);
  put_string(scratch, TAG_MESSAGE, message);
  if (error != 0) put_int(scratch, TAG_ERRNO, (uint64_t)error);
  if (path != NULL) put_string(scratch, TAG_PATH, path);
  stream_finish_with_scratch(stream, status);
}

void stream_fail(struct stream *stream, enum status status, const char *format, ...) {
  char message[MESSAGE_BYTES];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  fail_with(stream, status, 0, NULL, message);
}

void stream_fail_errno(struct stream *stream, int error, const char *path, const char *action) {
  char message[MESSAGE_BYTES];
  if (path != NULL) {
    snprintf(message, sizeof message, "%s '%s': %s", action, path, strerror(error));
  } else {
    snprintf(message, sizeof message, "%s: %s", action, strerror(error));
  }
  fail_with(stream, status_of_errno(error), error, path, message);
}

void stream_reset(struct stream *stream) { stream_finish(stream, STATUS_CANCELLED); }
