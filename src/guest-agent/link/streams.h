/* The streams of one connection: their windows, their turns, and the RESULT that ends each of them. */
#ifndef FIRKIN_STREAMS_H
#define FIRKIN_STREAMS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "link/fields.h"
#include "link/output.h"
#include "link/protocol.h"

struct stream;

/* The outcome of a stream's turn. */
enum turn {
  TURN_IDLE,   /* nothing to do until something happens, which must wake the stream */
  TURN_WORKED, /* something was done or sent, and there may be more to do */
};

/* The functions that a stream's operation hangs on its stream. An absent one does nothing. */
struct stream_work {
  /*
   * The stream has its turn. There is room for one frame, and at most one may be sent. Work of many steps ends its turn
   * when `slice_is_over`, after one step at least.
   */
  enum turn (*serve)(struct stream *stream);
  /*
   * DATA has come from the host. Every byte must be credited sooner or later with `stream_credit`. Without this
   * function bytes are thrown away and credited.
   */
  void (*data)(struct stream *stream, struct slice bytes);
  /* The host has sent END. */
  void (*end)(struct stream *stream);
  /* A CONTROL frame has come; its fields are checked. */
  void (*control)(struct stream *stream, uint16_t kind, struct slice fields);
  /* The stream has ended, for whatever reason. The function releases `job`. */
  void (*release)(struct stream *stream);
};

struct stream {
  struct stream_table *table;
  uint32_t id;
  /* The state of the room whose operation this is (`struct operation`). */
  void *room;
  /* NULL before the operation has begun, and again once the job of a finished stream is released. */
  const struct stream_work *work;
  void *job;
  /* Bytes the agent may still send. */
  uint32_t send_window;
  /* Bytes the host may still send. */
  uint32_t receive_window;
  /* Bytes that were taken and not yet given back with WINDOW. */
  uint32_t owed;
  bool input_ended;
  bool ready;
  bool finished;
  /* The stream is in the table's list of finished streams. */
  bool awaits_release;
  enum status status;
  /* Fields of the RESULT, owned; may be NULL. */
  uint8_t *result;
  size_t result_length;
  LIST_ENTRY(stream) bucket;
  TAILQ_ENTRY(stream) turn_order;
  LIST_ENTRY(stream) finished_order;
};

enum {
  STREAM_BUCKETS = 1024,
  /* Streams over the limit that wait until their refusal is sent. While there are more, the link is not read. */
  MAX_REFUSED = 64,
};

struct stream_table {
  struct output *output;
  LIST_HEAD(, stream) buckets[STREAM_BUCKETS];
  TAILQ_HEAD(stream_queue, stream) ready;
  /* Finished streams whose jobs are not released yet. */
  LIST_HEAD(, stream) finished;
  unsigned count;
  /* When the stream whose turn it is should end its turn. */
  int64_t slice_end_ms;
  /* Payloads of events and results are put together here. Nothing in it lasts until the next call. */
  struct writer scratch;
  uint8_t scratch_bytes[MAX_PAYLOAD];
};

/* The output outlives the table. */
void streams_start(struct stream_table *table, struct output *output);

/* NULL when memory is short or there is not even room for another refusal. */
struct stream *stream_open(struct stream_table *table, uint32_t id);
struct stream *stream_find(struct stream_table *table, uint32_t id);

/* Forgets all streams, without a RESULT for any. */
void streams_forget_all(struct stream_table *table);

/* Gives ready streams their turns while there is room in the output, for a fixed time and number of turns. */
void streams_serve(struct stream_table *table);

/* True when a stream waits for its turn and there is room for a frame. */
bool streams_could_go_on(struct stream_table *table);

/*
 * True when the turn of the stream has taken long enough, so that its work should go on in the next one. A turn that
 * looks only at the count of its steps can take seconds, because a step on a long path or an emulated processor is
 * slow.
 */
bool slice_is_over(const struct stream *stream);

/* Gives the stream its operation; `streams_serve` gives the turns. */
void stream_begin(struct stream *stream, const struct stream_work *work, void *job);
void stream_wake(struct stream *stream);

/* Credits the host with `count` received bytes, because they were taken. */
void stream_credit(struct stream *stream, size_t count);

/* Where the payload of the next DATA frame goes. `room` is its greatest length, and 0 while the window is closed. */
uint8_t *stream_data_room(struct stream *stream, size_t *room);
void stream_send_data(struct stream *stream, uint8_t channel, size_t length);
void stream_send_end(struct stream *stream);

/* True when an event of any size may be sent. */
bool stream_can_send_event(const struct stream *stream);
/* Sends the payload in the table's scratch writer, which begins with the event's kind. */
void stream_send_event(struct stream *stream);

/*
 * Ends the stream. The first call counts. The job stays usable until the function that was called for the stream has
 * returned, and is released then.
 */
void stream_finish(struct stream *stream, enum status status);
/* The same, with the fields that were written to the table's scratch writer after `writer_start`. */
void stream_finish_with_scratch(struct stream *stream, enum status status);
void stream_fail(struct stream *stream, enum status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Fails with the status of that errno. `path` may be NULL. */
void stream_fail_errno(struct stream *stream, int error, const char *path, const char *action);

/* The host has sent RESET, because it has lost interest. */
void stream_reset(struct stream *stream);

/* Releases the jobs of finished streams. Callers must not be inside a function of a stream. */
void streams_release(struct stream_table *table);

#endif
