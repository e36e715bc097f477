/* The event loop: edge-triggered epoll. A descriptor reports a change once, and its owner remembers it. */
#ifndef FIRKIN_LOOP_H
#define FIRKIN_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

/* A watched descriptor. It is a member of its owner, which zeroes it before use. */
struct event_source {
  int fd;
  /* Called with the epoll events seen since the last call. The callee may remove this and any other event source. */
  void (*notice)(struct event_source *source, uint32_t events);
  uint32_t events;
  bool noticed;
  uint32_t place;
  TAILQ_ENTRY(event_source) links;
};

/* Where a watched source is, and how many were there before it. */
struct loop_place {
  struct event_source *source;
  uint32_t earlier;
};

struct loop {
  int epoll_fd;
  struct loop_place *places;
  uint32_t place_count;
  TAILQ_HEAD(, event_source) noticed;
};

bool loop_open(struct loop *loop);
void loop_close(struct loop *loop);

/* Watches `fd` for input, output and hang-up. False with errno; the descriptor stays the caller's then. */
bool loop_add(struct loop *loop, struct event_source *source, int fd, void (*notice)(struct event_source *, uint32_t));

/* Closes the descriptor of a watched event source and forgets it. Does nothing to a source that is not watched. */
void loop_remove(struct loop *loop, struct event_source *source);

/* Waits at most `timeout_ms` (-1: without end) and notifies the owner of every descriptor with an event. */
void loop_wait(struct loop *loop, int timeout_ms);

/* Milliseconds of a clock that never jumps. */
int64_t now_ms(void);

#endif
