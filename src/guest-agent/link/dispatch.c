/* The dispatch. It also puts the parts of a long OPEN together. */
#include "link/dispatch.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

bool dispatch_has_room(const struct dispatch *dispatch) { return dispatch->streams->count < MAX_STREAMS + MAX_REFUSED; }

static void forget_parts(struct open_parts *parts) {
  free(parts->fields);
  *parts = (struct open_parts){0};
}

void dispatch_forget(struct dispatch *dispatch) {
  streams_forget_all(dispatch->streams);
  forget_parts(&dispatch->parts);
}

/* A stream for that OPEN, already refused if too many are open. NULL when there cannot be a stream. */
static struct stream *open_stream(struct dispatch *dispatch, uint32_t id) {
  bool too_many = dispatch->streams->count >= MAX_STREAMS;
  struct stream *stream = stream_open(dispatch->streams, id);
  if (stream != NULL && too_many) stream_fail(stream, STATUS_RESOURCE_EXHAUSTED, "too many streams are open");
  return stream;
}

/* False when the frame breaks the protocol, or memory is too short for a refusal. The host must send a HELLO then. */
static bool open_whole(struct dispatch *dispatch, uint32_t id, uint16_t operation, struct slice fields) {
  struct stream *stream = open_stream(dispatch, id);
  if (stream == NULL) return false;
  if (!stream->finished) operation_open(dispatch->operations, stream, operation, fields);
  return true;
}

static bool begin_parts(struct dispatch *dispatch, uint32_t id, uint16_t operation) {
  struct open_parts *parts = &dispatch->parts;
  parts->fields = malloc(MAX_OPEN);
  parts->stream = id;
  parts->operation = operation;
  return parts->fields != NULL;
}

static void add_part(struct open_parts *parts, struct slice part) {
  if (part.length > MAX_OPEN - parts->length) {
    parts->too_long = true;
  } else if (part.length > 0) {
    memcpy(parts->fields + parts->length, part.bytes, part.length);
    parts->length += part.length;
  }
}

static bool finish_parts(struct dispatch *dispatch) {
  struct open_parts parts = dispatch->parts;
  dispatch->parts = (struct open_parts){0};
  bool good;
  if (parts.too_long) {
    struct stream *stream = open_stream(dispatch, parts.stream);
    if (stream != NULL) stream_fail(stream, STATUS_INVALID_ARGUMENT, "the request has over %d bytes", MAX_OPEN);
    good = stream != NULL;
  } else {
    good = open_whole(dispatch, parts.stream, parts.operation, (struct slice){parts.fields, parts.length});
  }
  forget_parts(&parts);
  return good;
}

static bool take_open(struct dispatch *dispatch, const struct frame *frame) {
  struct open_parts *parts = &dispatch->parts;
  uint16_t operation = get_u16(frame->payload) & (OPEN_MORE - 1);
  bool more = (get_u16(frame->payload) & OPEN_MORE) != 0;
  struct slice fields = {frame->payload + 2, frame->length - 2};
  if (stream_find(dispatch->streams, frame->stream) != NULL) return false;
  if (parts->fields == NULL && !more) return open_whole(dispatch, frame->stream, operation, fields);
  if (parts->fields == NULL && !begin_parts(dispatch, frame->stream, operation)) return false;
  if (parts->stream != frame->stream || parts->operation != operation) return false;
  add_part(parts, fields);
  return more || finish_parts(dispatch);
}

static bool take_data(struct stream *stream, const struct frame *frame) {
  if (frame->length > stream->receive_window) return false;
  stream->receive_window -= frame->length;
  if (stream->input_ended || stream->finished) return true;
  if (stream->work != NULL && stream->work->data != NULL) {
    stream->work->data(stream, (struct slice){frame->payload, frame->length});
  } else {
    stream_credit(stream, frame->length);
  }
  return true;
}

static void take_end(struct stream *stream) {
  if (stream->input_ended || stream->finished) return;
  stream->input_ended = true;
  if (stream->work != NULL && stream->work->end != NULL) stream->work->end(stream);
}

static bool take_window(struct stream *stream, uint32_t bytes) {
  if (bytes > INITIAL_WINDOW - stream->send_window) return false;
  stream->send_window += bytes;
  stream_wake(stream);
  return true;
}

static void take_control(struct stream *stream, const struct frame *frame) {
  struct slice fields = {frame->payload + 2, frame->length - 2};
  if (stream->finished || stream->work == NULL || stream->work->control == NULL || !fields_check(fields)) return;
  stream->work->control(stream, get_u16(frame->payload), fields);
}

/* True when type, stream and length of the frame fit each other and a host may send it. */
static bool is_sensible(const struct frame *frame) {
  if (frame->stream == 0) return false;
  switch (frame->type) {
    case FRAME_OPEN:
    case FRAME_CONTROL: return frame->length >= 2;
    case FRAME_DATA: return true;
    case FRAME_WINDOW: return frame->length == 4;
    case FRAME_END:
    case FRAME_RESET: return frame->length == 0;
    default: return false;
  }
}

static bool take_frame(struct dispatch *dispatch, const struct frame *frame) {
  if (!is_sensible(frame)) return false;
  if (frame->type == FRAME_OPEN) return take_open(dispatch, frame);
  struct stream *stream = stream_find(dispatch->streams, frame->stream);
  if (stream == NULL) return true;
  switch (frame->type) {
    case FRAME_DATA: return take_data(stream, frame);
    case FRAME_WINDOW: return take_window(stream, get_u32(frame->payload));
    case FRAME_END: take_end(stream); return true;
    case FRAME_RESET: stream_reset(stream); return true;
    default: take_control(stream, frame); return true;
  }
}

bool dispatch_frame(struct dispatch *dispatch, const struct frame *frame) {
  bool good = take_frame(dispatch, frame);
  streams_release(dispatch->streams);
  return good;
}
