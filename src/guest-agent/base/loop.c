/* The event loop. It collects events first and delivers them afterwards, so that an owner may free any event source. */
#include "base/loop.h"

#include <errno.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64 };

bool loop_open(struct loop *loop) {
  TAILQ_INIT(&loop->noticed);
  loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  return loop->epoll_fd >= 0;
}

void loop_close(struct loop *loop) { close(loop->epoll_fd); }

bool loop_add(struct loop *loop, struct event_source *source, int fd, void (*notice)(struct event_source *, uint32_t)) {
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = source};
  if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) return false;
  *source = (struct event_source){.fd = fd, .notice = notice};
  return true;
}

void loop_remove(struct loop *loop, struct event_source *source) {
  if (source->notice == NULL) return;
  if (source->noticed) TAILQ_REMOVE(&loop->noticed, source, links);
  epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
  close(source->fd);
  *source = (struct event_source){.fd = -1};
}

void loop_wait(struct loop *loop, int timeout_ms) {
  struct epoll_event events[BATCH];
  int count = epoll_wait(loop->epoll_fd, events, BATCH, timeout_ms);
  for (int i = 0; i < count; i++) {
    struct event_source *source = events[i].data.ptr;
    source->events |= events[i].events;
    if (!source->noticed) TAILQ_INSERT_TAIL(&loop->noticed, source, links);
    source->noticed = true;
  }
  struct event_source *source;
  while ((source = TAILQ_FIRST(&loop->noticed)) != NULL) {
    uint32_t seen = source->events;
    TAILQ_REMOVE(&loop->noticed, source, links);
    source->noticed = false;
    source->events = 0;
    source->notice(source, seen);
  }
}

int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}
