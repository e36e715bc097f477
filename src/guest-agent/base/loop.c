/*
 * The event loop. It collects events first and delivers them afterwards, so that an owner may free any event source.
 * Epoll is given the place of a source and not its address: after a restore gVisor reports descriptors once more that
 * were removed before.
 */
#include "base/loop.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, FIRST_PLACES = 64 };

bool loop_open(struct loop *loop) {
  TAILQ_INIT(&loop->noticed);
  loop->places = NULL;
  loop->place_count = 0;
  loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  return loop->epoll_fd >= 0;
}

void loop_close(struct loop *loop) {
  close(loop->epoll_fd);
  free(loop->places);
}

/* A free place; there is none when memory is out. */
static bool find_place(struct loop *loop, uint32_t *place) {
  for (*place = 0; *place < loop->place_count; (*place)++) {
    if (loop->places[*place].source == NULL) return true;
  }
  uint32_t count = loop->place_count == 0 ? FIRST_PLACES : loop->place_count * 2;
  struct loop_place *places = reallocarray(loop->places, count, sizeof *places);
  if (places == NULL) return false;
  for (uint32_t i = loop->place_count; i < count; i++) places[i] = (struct loop_place){0};
  loop->places = places;
  loop->place_count = count;
  return true;
}

static struct event_source *find_source(const struct loop *loop, uint64_t data) {
  uint32_t place = (uint32_t)data;
  if (place >= loop->place_count || loop->places[place].earlier != data >> 32) return NULL;
  return loop->places[place].source;
}

bool loop_add(struct loop *loop, struct event_source *source, int fd, void (*notice)(struct event_source *, uint32_t)) {
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET};
  uint32_t place;
  if (!find_place(loop, &place)) return false;
  event.data.u64 = (uint64_t)loop->places[place].earlier << 32 | place;
  if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) return false;
  *source = (struct event_source){.fd = fd, .notice = notice, .place = place};
  loop->places[place].source = source;
  return true;
}

void loop_remove(struct loop *loop, struct event_source *source) {
  if (source->notice == NULL) return;
  if (source->noticed) TAILQ_REMOVE(&loop->noticed, source, links);
  epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
  close(source->fd);
  loop->places[source->place].source = NULL;
  loop->places[source->place].earlier++;
  *source = (struct event_source){.fd = -1};
}

void loop_wait(struct loop *loop, int timeout_ms) {
  struct epoll_event events[BATCH];
  int count = epoll_wait(loop->epoll_fd, events, BATCH, timeout_ms);
  for (int i = 0; i < count; i++) {
    struct event_source *source = find_source(loop, events[i].data.u64);
    if (source == NULL) continue;
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
