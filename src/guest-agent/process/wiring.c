/* The wiring. The agent's ends never block, the process's ends do. */
#include "process/wiring.h"

#include <fcntl.h>
#include <stddef.h>
#include <unistd.h>

#include "process/terminal.h"

static void close_all(int *descriptors, size_t count) {
  for (size_t i = 0; i < count; i++) {
    bool shared = i > 0 && descriptors[i] == descriptors[0];
    if (descriptors[i] >= 0 && !shared) close(descriptors[i]);
  }
}

void wiring_close_theirs(struct wiring *wiring) { close_all(wiring->theirs, 3); }

void wiring_close(struct wiring *wiring) {
  wiring_close_theirs(wiring);
  if (wiring->ours.input >= 0) close(wiring->ours.input);
  if (wiring->ours.outputs[0] >= 0) close(wiring->ours.outputs[0]);
  if (wiring->ours.outputs[1] >= 0) close(wiring->ours.outputs[1]);
}

static bool set_nonblocking(int fd) { return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0; }

/* Lets programs open /dev/stdin and /dev/stdout anew, as if they were files. An agent that is not root cannot do it. */
static void give_pipe_to(int end, const struct account *account) {
  int ignored = fchown(end, account->uid, account->gid);
  (void)ignored;
}

static bool wire_pipe(int *ours, int *theirs, bool theirs_writes, const struct account *account) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return false;
  give_pipe_to(ends[0], account);
  *ours = ends[theirs_writes ? 0 : 1];
  *theirs = ends[theirs_writes ? 1 : 0];
  return set_nonblocking(*ours);
}

bool wiring_open(struct wiring *wiring, const struct wiring_plan *plan) {
  *wiring = (struct wiring){.ours = {-1, {-1, -1}}, .theirs = {-1, -1, -1}};
  if (plan->terminal) {
    int slave;
    if (!terminal_open(plan->columns, plan->rows, plan->account, &wiring->ours.outputs[0], &slave)) return false;
    for (int i = 0; i < 3; i++) wiring->theirs[i] = slave;
    wiring->ours.input = fcntl(wiring->ours.outputs[0], F_DUPFD_CLOEXEC, 3);
    return wiring->ours.input >= 0;
  }
  if (plan->has_stdin) {
    if (!wire_pipe(&wiring->ours.input, &wiring->theirs[0], false, plan->account)) return false;
  } else if ((wiring->theirs[0] = open("/dev/null", O_RDONLY | O_CLOEXEC)) < 0) {
    return false;
  }
  return wire_pipe(&wiring->ours.outputs[0], &wiring->theirs[1], true, plan->account) &&
         wire_pipe(&wiring->ours.outputs[1], &wiring->theirs[2], true, plan->account);
}
