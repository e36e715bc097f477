/* The link source. Only an inherited descriptor can end for good. */
#include "link/source.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Stands after sys/socket.h because some versions use struct sockaddr without declaring it. */
#include <linux/vm_sockets.h>

#include "base/small_file.h"

enum {
  CONNECT_RETRY_MS = 50,
  PORT_RETRY_MS = 20,
  /*
   * A serial port without a host reads as ended and always polls as "hung up". Its edge comes when the host connects.
   * This interval covers an edge that came between two looks.
   */
  HUNG_UP_RETRY_MS = 500,
};

static const char port_name[] = "firkin.agent";

void source_start(struct link_source *source, struct link *link) {
  *source = (struct link_source){.link = link, .retry_ms = INT64_MAX};
}

void source_stop(struct link_source *source) {
  link_detach(source->link);
  loop_remove(source->link->loop, &source->listener);
}

bool source_use_fd(struct link_source *source, int fd) {
  source->kind = LINK_FD;
  if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) return false;
  return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0 && link_attach(source->link, fd);
}

/* The numbers of both are given to /dev/null, so that nothing else reads or writes the link. */
bool source_use_standard(struct link_source *source) {
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  int in = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  int out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  source->kind = LINK_STANDARD;
  bool good = null >= 0 && in >= 0 && out >= 0 && dup2(null, STDIN_FILENO) >= 0 && dup2(null, STDOUT_FILENO) >= 0;
  if (null >= 0) close(null);
  if (!good || fcntl(in, F_SETFL, O_RDONLY | O_NONBLOCK) != 0) return false;
  return fcntl(out, F_SETFL, O_WRONLY | O_NONBLOCK) == 0 && link_attach_pair(source->link, in, out);
}

void source_use_path(struct link_source *source, const char *path) {
  source->kind = LINK_CONNECT;
  source->path = path;
  source->retry_ms = 0;
}

void source_use_port(struct link_source *source) {
  source->kind = LINK_PORT;
  source->retry_ms = 0;
}

static void accept_notice(struct event_source *listener, uint32_t events) {
  struct link_source *source = (struct link_source *)((char *)listener - offsetof(struct link_source, listener));
  int fd;
  (void)events;
  while ((fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
    if (!link_attach(source->link, fd)) close(fd);
  }
}

bool source_use_vsock(struct link_source *source, unsigned port) {
  struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
  source->kind = LINK_VSOCK;
  int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return false;
  if (bind(fd, (const void *)&address, sizeof address) == 0 && listen(fd, 4) == 0 &&
      loop_add(source->link->loop, &source->listener, fd, accept_notice)) {
    return true;
  }
  close(fd);
  return false;
}

static int connect_path(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) return -1;
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd >= 0 && connect(fd, (const void *)&address, sizeof address) == 0) return fd;
  if (fd >= 0) close(fd);
  return -1;
}

static bool port_has_name(const char *port) {
  char path[512], name[128];
  snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", port);
  if (get_file(path, name, sizeof name) < 0) return false;
  name[strcspn(name, "\n")] = '\0';
  return strcmp(name, port_name) == 0;
}

static int open_port(void) {
  char path[512];
  int fd = -1;
  DIR *dir = opendir("/sys/class/virtio-ports");
  const struct dirent *entry;
  while (dir != NULL && fd < 0 && (entry = readdir(dir)) != NULL) {
    if (entry->d_name[0] == '.' || !port_has_name(entry->d_name)) continue;
    snprintf(path, sizeof path, "/dev/%s", entry->d_name);
    fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
  }
  if (dir != NULL) closedir(dir);
  return fd;
}

/*
 * A serial port may hold a new host's bytes before the kernel has learnt that there is a host, because the bytes come
 * by another queue than the word that the host connected. In between the port reads as ended and takes no answer.
 * Forgetting the link then would lose the WELCOME, or half a HELLO. So only a port that stays ended counts as one
 * without a host.
 */
static void port_ended(struct link_source *source, int64_t now) {
  if (source->ended_since_ms == 0) source->ended_since_ms = now;
  if (now - source->ended_since_ms >= HUNG_UP_RETRY_MS) link_reset(source->link);
  source->retry_ms = now + HUNG_UP_RETRY_MS;
}

/* The other end is gone, or the descriptor is broken. */
static void hung_up(struct link_source *source, bool broken) {
  switch (source->kind) {
    case LINK_FD:
    case LINK_STANDARD: source->over = true; break;
    case LINK_CONNECT:
      link_detach(source->link);
      source->retry_ms = now_ms() + CONNECT_RETRY_MS;
      break;
    case LINK_VSOCK: link_detach(source->link); break;
    case LINK_PORT:
      if (broken) {
        link_detach(source->link);
        source->retry_ms = now_ms() + PORT_RETRY_MS;
      } else {
        port_ended(source, now_ms());
      }
      break;
  }
}

void source_receive(struct link_source *source) {
  switch (link_receive(source->link)) {
    case LINK_NOT_READ: break;
    case LINK_HEARD: source->ended_since_ms = 0; break;
    case LINK_ENDED: hung_up(source, false); break;
    case LINK_BROKEN: hung_up(source, true); break;
  }
}

/* Opens the link again. False when that has not worked yet. */
static bool reopen(struct link_source *source) {
  int fd = source->kind == LINK_PORT ? open_port() : connect_path(source->path);
  if (fd < 0) return false;
  if (link_attach(source->link, fd)) return true;
  close(fd);
  return false;
}

int64_t source_tick(struct link_source *source, int64_t now) {
  if (now < source->retry_ms) return source->retry_ms;
  source->retry_ms = INT64_MAX;
  if (source->link->open) {
    source->link->readable = true;
    source->link->writable = true;
  } else if (!reopen(source)) {
    source->retry_ms = now + (source->kind == LINK_PORT ? PORT_RETRY_MS : CONNECT_RETRY_MS);
  }
  return source->retry_ms;
}
