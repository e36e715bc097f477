/*
 * The keeper is process 1 of a gVisor sandbox's box (box.c): it runs runsc on the daemon's orders, and carries bytes
 * between the guest, the daemon and the network. The daemon comes and goes; the keeper stays until the sandbox ends,
 * and everything in the box ends with it.
 *
 * Usage: keeper FOLDER PROCESSORS RUNSC FLAG…   (FOLDER is there to be seen in the list of processes)
 *
 * Descriptors: 3 the network's stream, where each frame is its length as u32 (big-endian) and the Ethernet frame;
 * 4 listens for orders, 5 for the daemon's guest link; 6 a packet socket, or closed. The guest's end of the link is two
 * pipes, the standard input and output of its first process.
 *
 * An order is a line of words, arguments for runsc after its flags; the answer is a line, `ok` or `error: …`. The order
 * `sync` writes what the guest wrote to its disk; `state` is answered with `ok running` or `ok paused`, and what is so
 * already is not done again; `end` ends the keeper. One connection gives orders at a time, and the
 * newest connection is the link.
 */
#define _GNU_SOURCE
#include <sys/prctl.h>

#include "keeper.h"
#include "keeper_orders.h"
#include "keeper_wire.h"

enum { NETWORK = 3, ORDERS = 4, HOST_LINK = 5, PACKETS = 6, LINK_BYTES = 256 * 1024, PIPE_BYTES = 1024 * 1024 };

/* Bytes on their way from one side to the other. */
struct way {
  unsigned char bytes[LINK_BYTES];
  size_t begin, end;
};

static struct way to_guest, to_host;
static int host = -1, guest_in, guest_out;

_Noreturn void fail(const char *what) {
  dprintf(STDERR_FILENO, "keeper: %s: %s\n", what, strerror(errno));
  _exit(125);
}

static void open_guest(void) {
  int in[2], out[2];
  if (pipe2(in, O_CLOEXEC | O_NONBLOCK) || pipe2(out, O_CLOEXEC | O_NONBLOCK)) fail("the guest's pipes");
  /* Smaller ones work as well. */
  fcntl(in[0], F_SETPIPE_SZ, PIPE_BYTES);
  fcntl(out[0], F_SETPIPE_SZ, PIPE_BYTES);
  guest_in = in[1];
  guest_out = out[0];
  orders_give(in[0], out[1]);
}

static void forget_host(void) {
  if (host >= 0) close(host);
  host = -1;
  to_guest.begin = to_guest.end = to_host.begin = to_host.end = 0;
}

static void accept_host(void) {
  int fd;
  while ((fd = accept4(HOST_LINK, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
    forget_host();
    host = fd;
  }
}

/* Fills the way from `fd` when it is empty. False when the other end is gone. */
static bool fill(struct way *way, int fd) {
  if (way->begin < way->end) return true;
  ssize_t got = read(fd, way->bytes, sizeof way->bytes);
  if (got <= 0) return got < 0 && (errno == EAGAIN || errno == EINTR);
  way->begin = 0;
  way->end = (size_t)got;
  return true;
}

static bool drain(struct way *way, int fd) {
  while (way->begin < way->end) {
    ssize_t sent = write(fd, way->bytes + way->begin, way->end - way->begin);
    if (sent < 0) return errno == EAGAIN || errno == EINTR;
    way->begin += (size_t)sent;
  }
  return true;
}

/* A guest that has nobody to talk to is not read. The end of the sandbox is the end of its process, not of its pipes.
 */
static void carry(void) {
  if (host < 0) return;
  fill(&to_host, guest_out);
  if (!drain(&to_host, host) || !fill(&to_guest, host)) return forget_host();
  drain(&to_guest, guest_in);
}

static void watch_link(struct pollfd *host_poll, struct pollfd *in, struct pollfd *out) {
  bool is_open = host >= 0, has_input = to_guest.begin < to_guest.end, has_output = to_host.begin < to_host.end;
  *host_poll = (struct pollfd){.fd = host, .events = (short)((has_input ? 0 : POLLIN) | (has_output ? POLLOUT : 0))};
  *in = (struct pollfd){.fd = is_open && has_input ? guest_in : -1, .events = POLLOUT};
  *out = (struct pollfd){.fd = is_open && !has_output ? guest_out : -1, .events = POLLIN};
}

/* Nobody waits for the processes of a sandbox whose runsc has ended. The keeper ends with the sandbox. */
static void reap(void) {
  int ended;
  pid_t pid;
  while ((pid = waitpid(-1, &ended, WNOHANG)) > 0) {
    if (orders_ended(pid, ended) || pid != sandbox_pid()) continue;
    if (WIFSIGNALED(ended)) {
      dprintf(STDERR_FILENO, "the sandbox was ended by signal %d\n", WTERMSIG(ended));
      _exit(1);
    }
    dprintf(STDERR_FILENO, "the sandbox ended with %d\n", WEXITSTATUS(ended));
    _exit(WEXITSTATUS(ended));
  }
}

int main(int count, char **arguments) {
  if (count < 4) return 2;
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  sigprocmask(SIG_BLOCK, &children, NULL);
  int ends = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
  if (ends < 0) fail("signals");
  prctl(PR_SET_NAME, "firkin-gvisor");
  for (int fd = NETWORK; fd <= PACKETS; fd++) {
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0) continue;
    fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
  }
  bool has_network = fcntl(PACKETS, F_GETFD) >= 0;
  orders_start(ORDERS, atoi(arguments[2]), arguments + 3);
  open_guest();
  signal(SIGPIPE, SIG_IGN);
  for (;;) {
    enum { END, LISTEN, HOST, GUEST_IN, GUEST_OUT, FRAMES, STREAM, FIRST_ORDER };
    struct pollfd polls[FIRST_ORDER + ORDER_POLLS] = {
        [END] = {.fd = ends, .events = POLLIN},
        [LISTEN] = {.fd = HOST_LINK, .events = POLLIN},
        [FRAMES] = {.fd = has_network ? PACKETS : -1},
        [STREAM] = {.fd = has_network ? NETWORK : -1},
    };
    watch_link(&polls[HOST], &polls[GUEST_IN], &polls[GUEST_OUT]);
    if (has_network) watch_wire(&polls[FRAMES], &polls[STREAM]);
    orders_watch(&polls[FIRST_ORDER]);
    if (poll(polls, FIRST_ORDER + ORDER_POLLS, -1) < 0 && errno != EINTR) fail("poll");
    if (polls[END].revents) {
      struct signalfd_siginfo ignored;
      while (read(ends, &ignored, sizeof ignored) > 0) {}
    }
    orders_serve(&polls[FIRST_ORDER]);
    reap();
    if (polls[HOST].revents & (POLLHUP | POLLERR)) forget_host();
    carry();
    if (polls[LISTEN].revents) accept_host();
    carry();
    if (has_network && !carry_frames(PACKETS, NETWORK)) has_network = false;
  }
}
