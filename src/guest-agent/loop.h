/* An edge-triggered epoll loop: descriptors report once that something changed, and their owners remember it. */
#ifndef FIRKIN_LOOP_H
#define FIRKIN_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

/* A descriptor that is watched. Part of its owner, who zeroes it before use. */
struct source {
  int fd;
  /* Called with the epoll events seen since the last call. It may remove this and any other source. */
  void (*notice)(struct source *source, uint32_t events);
  uint32_t events;
  bool noticed;
  TAILQ_ENTRY(source) links;
};

struct loop {
  int epoll_fd;
  TAILQ_HEAD(, source) noticed;
};

bool loop_open(struct loop *loop);
void loop_close(struct loop *loop);

/* Watches `fd` for input, output and hang-up. False with errno; the descriptor stays the caller's then. */
bool loop_add(struct loop *loop, struct source *source, int fd, void (*notice)(struct source *, uint32_t));

/* Closes the descriptor of a watched source and forgets it. Does nothing to one that is not watched. */
void loop_remove(struct loop *loop, struct source *source);

/* Waits at most that long (-1: without end) and calls the owners of what was noticed. */
void loop_wait(struct loop *loop, int timeout_ms);

/* Milliseconds of a clock that never jumps. */
int64_t now_ms(void);

#endif
