/* DIAL connects to a TCP port inside the guest, with half close in both directions. */
#include "machine/dial.h"

#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "machine/machine.h"

enum dial_state {
  DIAL_CONNECTING,
  /* The connection is there. The host does not know yet. */
  DIAL_CONNECTED,
  DIAL_OPEN,
};

/* The addresses where a service may listen, in the order of the attempts. */
enum dial_address {
  DIAL_LOOPBACK_4,
  DIAL_LOOPBACK_6,
  /* The address of the machine's first network interface. */
  DIAL_NETWORK,
  DIAL_NOWHERE,
};

struct dial {
  struct event_source source;
  struct stream *stream;
  enum dial_state state;
  enum dial_address address;
  /* The errno of the attempt at the first address. */
  int first_error;
  uint16_t port;
  bool readable;
  bool writable;
  /* The socket has sent its last byte, and the host knows. */
  bool received_all;
  /* The host has sent its last byte, and the socket has it or takes no more. */
  bool sent_all;
  bool host_ended;
  struct byte_queue queue;
};

static struct loop *loop_of(const struct dial *dial) {
  const struct machine *machine = dial->stream->room;
  return machine->loop;
}

static void release(struct stream *stream) {
  struct dial *dial = stream->job;
  loop_remove(loop_of(dial), &dial->source);
  queue_clear(&dial->queue);
  free(dial);
}

static void notice(struct event_source *source, uint32_t events);

/* Finds the IPv4 address of the first interface that is up and not a loopback. */
static bool find_network_address(struct in_addr *found) {
  struct ifaddrs *all;
  if (getifaddrs(&all) != 0) return false;
  const struct ifaddrs *one = all;
  while (one != NULL && (one->ifa_addr == NULL || one->ifa_addr->sa_family != AF_INET || !(one->ifa_flags & IFF_UP) ||
                         (one->ifa_flags & IFF_LOOPBACK))) {
    one = one->ifa_next;
  }
  if (one != NULL) memcpy(found, &((const struct sockaddr_in *)(const void *)one->ifa_addr)->sin_addr, sizeof *found);
  freeifaddrs(all);
  return one != NULL;
}

/* Begins to connect to the address that is next. False with errno. */
static bool begin_connect(struct dial *dial) {
  in_port_t port = htons(dial->port);
  struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = port, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = port, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
  int one = 1;
  bool is_v6 = dial->address == DIAL_LOOPBACK_6;
  if (dial->address == DIAL_NETWORK && !find_network_address(&v4.sin_addr)) return false;
  int fd = socket(is_v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return false;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  const struct sockaddr *address = is_v6 ? (const void *)&v6 : (const void *)&v4;
  socklen_t length = is_v6 ? sizeof v6 : sizeof v4;
  bool begun = connect(fd, address, length) == 0 || errno == EINPROGRESS;
  if (begun && loop_add(loop_of(dial), &dial->source, fd, notice)) return true;
  int error = errno;
  close(fd);
  errno = error;
  return false;
}

/* The address does not answer. Tries the next address, or ends the stream. */
static void try_next(struct dial *dial, int error) {
  loop_remove(loop_of(dial), &dial->source);
  if (dial->address == DIAL_LOOPBACK_4) dial->first_error = error;
  while (++dial->address < DIAL_NOWHERE) {
    if (begin_connect(dial)) return;
  }
  stream_fail_errno(dial->stream, dial->first_error, NULL, "cannot connect to the port");
}

static void settle_connect(struct dial *dial, uint32_t events) {
  int error = 0;
  socklen_t length = sizeof error;
  if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) return;
  getsockopt(dial->source.fd, SOL_SOCKET, SO_ERROR, &error, &length);
  if (error == 0) {
    dial->state = DIAL_CONNECTED;
  } else {
    try_next(dial, error);
  }
}

/* The socket takes no more bytes. Those that wait and those to come are thrown away. */
static void stop_sending(struct dial *dial) {
  dial->sent_all = true;
  stream_credit(dial->stream, queue_clear(&dial->queue));
}

static void flush(struct dial *dial) {
  if (dial->state == DIAL_CONNECTING || !dial->writable || dial->sent_all) return;
  size_t written = 0;
  int error = queue_write(&dial->queue, dial->source.fd, &written);
  stream_credit(dial->stream, written);
  if (error == EAGAIN) {
    dial->writable = false;
  } else if (error != 0) {
    stop_sending(dial);
  } else if (dial->host_ended) {
    shutdown(dial->source.fd, SHUT_WR);
    dial->sent_all = true;
  }
}

static void notice(struct event_source *source, uint32_t events) {
  struct dial *dial = (struct dial *)((char *)source - offsetof(struct dial, source));
  stream_wake(dial->stream);
  if (dial->state == DIAL_CONNECTING) {
    settle_connect(dial, events);
    return;
  }
  if (events & EPOLLOUT) dial->writable = true;
  if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) dial->readable = true;
  flush(dial);
}

static enum turn receive(struct stream *stream, struct dial *dial) {
  size_t room;
  uint8_t *at = stream_data_room(stream, &room);
  if (room == 0) return TURN_IDLE;
  ssize_t count = read(dial->source.fd, at, room);
  if (count > 0) {
    stream_send_data(stream, CHANNEL_BYTES, (size_t)count);
  } else if (count == 0) {
    dial->received_all = true;
    stream_send_end(stream);
  } else if (errno == EAGAIN) {
    dial->readable = false;
  } else if (errno != EINTR) {
    stream_fail_errno(stream, errno, NULL, "the connection broke");
  }
  return TURN_WORKED;
}

static enum turn serve(struct stream *stream) {
  struct dial *dial = stream->job;
  if (dial->state == DIAL_CONNECTING) return TURN_IDLE;
  if (dial->state == DIAL_CONNECTED) {
    writer_start(&stream->table->scratch, EVENT_STARTED);
    stream_send_event(stream);
    dial->state = DIAL_OPEN;
    dial->readable = true;
    dial->writable = true;
    flush(dial);
    return TURN_WORKED;
  }
  if (dial->received_all && dial->sent_all) {
    stream_finish(stream, STATUS_OK);
    return TURN_WORKED;
  }
  if (dial->readable && !dial->received_all) return receive(stream, dial);
  return TURN_IDLE;
}

static void take_data(struct stream *stream, struct slice bytes) {
  struct dial *dial = stream->job;
  if (dial->sent_all) {
    stream_credit(stream, bytes.length);
  } else if (!queue_push(&dial->queue, bytes.bytes, bytes.length)) {
    stream_fail(stream, STATUS_RESOURCE_EXHAUSTED, "out of memory");
  } else {
    flush(dial);
  }
}

static void take_end(struct stream *stream) {
  struct dial *dial = stream->job;
  dial->host_ended = true;
  flush(dial);
  stream_wake(stream);
}

static const struct stream_work dial_work = {.serve = serve, .data = take_data, .end = take_end, .release = release};

void open_dial(struct request *request) {
  struct stream *stream = request->stream;
  uint64_t port = request_int(request, TAG_PORT, 0);
  if (request->problem == NULL && (port == 0 || port > UINT16_MAX)) request->problem = "there is no such port";
  if (request_refused(request)) return;
  struct dial *dial = calloc(1, sizeof *dial);
  if (dial == NULL) {
    stream_fail(stream, STATUS_RESOURCE_EXHAUSTED, "out of memory");
    return;
  }
  dial->stream = stream;
  dial->port = (uint16_t)port;
  stream_begin(stream, &dial_work, dial);
  if (!begin_connect(dial)) try_next(dial, errno);
}
