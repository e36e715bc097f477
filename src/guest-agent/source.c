/* The ways to the host. Only an inherited descriptor can end for good. */
#include "source.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* After sys/socket.h: some versions of it use struct sockaddr without declaring it. */
#include <linux/vm_sockets.h>

#include "agent.h"
#include "put_file.h"

enum {
  CONNECT_RETRY_MS = 50,
  PORT_RETRY_MS = 20,
  /*
   * A serial port without a host reads as ended and is always "hung up". Its edge comes when the host connects; this is
   * for the case that the edge came between two looks.
   */
  HUNG_UP_RETRY_MS = 500,
};

static const char port_name[] = "firkin.agent";

bool source_use_fd(struct agent *agent, int fd) {
  agent->link_source = (struct link_source){.kind = LINK_FD, .retry_ms = INT64_MAX};
  if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) return false;
  return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0 && link_attach(&agent->link, fd);
}

void source_use_path(struct agent *agent, const char *path) {
  agent->link_source = (struct link_source){.kind = LINK_CONNECT, .path = path};
}

void source_use_port(struct agent *agent) { agent->link_source = (struct link_source){.kind = LINK_PORT}; }

static void accept_notice(struct source *source, uint32_t events) {
  struct link_source *link_source = (struct link_source *)((char *)source - offsetof(struct link_source, listener));
  struct agent *agent = (struct agent *)((char *)link_source - offsetof(struct agent, link_source));
  int fd;
  (void)events;
  while ((fd = accept4(source->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
    if (!link_attach(&agent->link, fd)) close(fd);
  }
}

bool source_use_vsock(struct agent *agent, unsigned port) {
  struct link_source *source = &agent->link_source;
  struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
  *source = (struct link_source){.kind = LINK_VSOCK, .vsock_port = port, .retry_ms = INT64_MAX};
  int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return false;
  if (bind(fd, (const void *)&address, sizeof address) == 0 && listen(fd, 4) == 0 &&
      loop_add(&agent->loop, &source->listener, fd, accept_notice)) {
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

void source_heard(struct agent *agent) { agent->link_source.ended_since_ms = 0; }

/*
 * A serial port may hold a new host's bytes before the kernel has learnt that there is a host: they come by another
 * queue than the word that it connected. In between the port reads as ended and takes no answer, and forgetting the link
 * then would lose the WELCOME, or half a HELLO. So only a port that stays ended is one without a host.
 */
static void port_ended(struct agent *agent, int64_t now) {
  struct link_source *source = &agent->link_source;
  if (source->ended_since_ms == 0) source->ended_since_ms = now;
  if (now - source->ended_since_ms >= HUNG_UP_RETRY_MS) link_reset(&agent->link);
  source->retry_ms = now + HUNG_UP_RETRY_MS;
}

void source_hung_up(struct agent *agent, int error) {
  struct link_source *source = &agent->link_source;
  switch (source->kind) {
    case LINK_FD: agent->should_exit = true; break;
    case LINK_CONNECT:
      link_detach(&agent->link);
      source->retry_ms = now_ms() + CONNECT_RETRY_MS;
      break;
    case LINK_VSOCK: link_detach(&agent->link); break;
    case LINK_PORT:
      if (error == 0) {
        port_ended(agent, now_ms());
      } else {
        link_detach(&agent->link);
        source->retry_ms = now_ms() + PORT_RETRY_MS;
      }
      break;
  }
}

/* Opens the link again. False when that did not work yet. */
static bool reopen(struct agent *agent) {
  int fd = agent->link_source.kind == LINK_PORT ? open_port() : connect_path(agent->link_source.path);
  if (fd < 0) return false;
  if (link_attach(&agent->link, fd)) return true;
  close(fd);
  return false;
}

int64_t source_tick(struct agent *agent, int64_t now) {
  struct link_source *source = &agent->link_source;
  if (now < source->retry_ms) return source->retry_ms;
  source->retry_ms = INT64_MAX;
  if (agent->link.open) {
    agent->link.readable = true;
    agent->link.writable = true;
  } else if (!reopen(agent)) {
    source->retry_ms = now + (source->kind == LINK_PORT ? PORT_RETRY_MS : CONNECT_RETRY_MS);
  }
  return source->retry_ms;
}
