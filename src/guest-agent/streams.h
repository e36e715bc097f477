/* The streams of one connection: who may send how much, whose turn it is, and the RESULT that ends each. */
#ifndef FIRKIN_STREAMS_H
#define FIRKIN_STREAMS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "fields.h"
#include "protocol.h"

struct agent;
struct stream;

/* What came of a stream's turn. */
enum turn {
  TURN_IDLE,   /* nothing to do until something happens: wake the stream then */
  TURN_WORKED, /* something was done or sent, there may be more */
};

/* What a stream's operation does as things happen. Absent functions do nothing. */
struct stream_work {
  /* The stream's turn. There is room for one frame; at most one may be sent. */
  enum turn (*serve)(struct stream *stream);
  /* DATA from the host. Every byte is to be credited sooner or later with `stream_credit`; without this it is thrown away. */
  void (*data)(struct stream *stream, struct slice bytes);
  /* The host's END. */
  void (*end)(struct stream *stream);
  /* A CONTROL frame with checked fields. */
  void (*control)(struct stream *stream, uint16_t kind, struct slice fields);
  /* The stream ends, by whatever cause: release `job`. */
  void (*release)(struct stream *stream);
};

struct stream {
  struct agent *agent;
  uint32_t id;
  /* NULL once the stream is finished and its job released. */
  const struct stream_work *work;
  void *job;
  /* Bytes the agent may still send. */
  uint32_t send_window;
  /* Bytes the host may still send. */
  uint32_t receive_window;
  /* Bytes taken but not yet given back with WINDOW. */
  uint32_t owed;
  bool input_ended;
  bool ready;
  bool finished;
  /* It is in the table's list of those. */
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
  /* Streams over the limit that wait for their refusal to be sent; more stop the reading of the link. */
  MAX_REFUSED = 64,
};

struct stream_table {
  LIST_HEAD(, stream) buckets[STREAM_BUCKETS];
  TAILQ_HEAD(stream_queue, stream) ready;
  /* Finished streams whose jobs are not released yet. */
  LIST_HEAD(, stream) finished;
  unsigned count;
};

void streams_start(struct stream_table *table);

/* NULL when memory is short or the table is full to the last refusal. */
struct stream *stream_open(struct agent *agent, uint32_t id);
struct stream *stream_find(struct agent *agent, uint32_t id);

/* Forgets all streams without a RESULT. */
void streams_forget_all(struct agent *agent);

/* Gives ready streams their turns while there is room in the output, up to a number of turns. */
void streams_serve(struct agent *agent);

/* True when a stream waits for its turn and there is room for a frame. */
bool streams_could_go_on(struct agent *agent);

/* Gives the stream something to do; turns come from `streams_serve`. */
void stream_begin(struct stream *stream, const struct stream_work *work, void *job);
void stream_wake(struct stream *stream);

/* Says that `count` received bytes were taken. */
void stream_credit(struct stream *stream, size_t count);

/* Where the payload of the next DATA frame goes and how long it may be: at least 1 if the window is open, else 0. */
uint8_t *stream_data_room(struct stream *stream, size_t *room);
void stream_send_data(struct stream *stream, uint8_t channel, size_t length);
void stream_send_end(struct stream *stream);

/* True when an event of any size may be sent. */
bool stream_can_send_event(const struct stream *stream);
/* Sends what the agent's scratch writer holds (begun with the event's kind). */
void stream_send_event(struct stream *stream);

/*
 * Ends the stream. The first call counts. The job is released when the function that was called for the stream has
 * returned, so it may be used until then.
 */
void stream_finish(struct stream *stream, enum status status);
/* The same, with the fields that were written to the agent's scratch writer after `writer_start`. */
void stream_finish_with_scratch(struct stream *stream, enum status status);
void stream_fail(struct stream *stream, enum status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Fails with the status that belongs to an errno. `path` may be NULL. */
void stream_fail_errno(struct stream *stream, int error, const char *path, const char *action);

/* The host has lost interest. */
void stream_reset(struct stream *stream);

/* Releases the jobs of finished streams. To be called where no function of a stream is under way. */
void streams_release(struct agent *agent);

enum status status_of_errno(int error);

#endif
