/* The wiring of a process: pipes, or a terminal. */
#ifndef FIRKIN_WIRING_H
#define FIRKIN_WIRING_H

#include <stdbool.h>
#include <stdint.h>

#include "accounts/book.h"
#include "process/children.h"

/* Both ends of the wiring; -1 where there is nothing. */
struct wiring {
  struct process_pipes ours;
  int theirs[3];
};

struct wiring_plan {
  bool terminal;
  bool has_stdin;
  uint64_t columns;
  uint64_t rows;
  const struct account *account;
};

/* False with errno; the caller then closes the descriptors opened so far with `wiring_close`. */
bool wiring_open(struct wiring *wiring, const struct wiring_plan *plan);
void wiring_close_theirs(struct wiring *wiring);
void wiring_close(struct wiring *wiring);

#endif
