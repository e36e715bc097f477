/*
 * Calls to the sandbox without runsc, which takes longer to start than a pause takes. The protocol is that of runsc: a
 * JSON message each way over the sandbox's control socket.
 */
#ifndef FIRKIN_KEEPER_CONTROL_H
#define FIRKIN_KEEPER_CONTROL_H

#include <sys/un.h>

#include "keeper.h"

/* Sends a call and reads its answer, which is one object without others in it. */
static bool exchange(int fd, const char *call, char *answer, size_t room) {
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/state/runsc-m.sock"};
  ssize_t bytes = (ssize_t)strlen(call);
  size_t length = 0;
  if (connect(fd, (const void *)&address, sizeof address)) return false;
  if (send(fd, call, (size_t)bytes, MSG_NOSIGNAL) != bytes) return false;
  while (length < room - 1) {
    ssize_t got = recv(fd, answer + length, room - 1 - length, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    length += (size_t)got;
    answer[length] = '\0';
    if (strchr(answer, '}')) return true;
  }
  return false;
}

/* Calls a method that takes nothing and returns nothing. False when it cannot be called, or does not succeed. */
static bool call_sandbox(const char *method) {
  char call[128], answer[1024];
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  snprintf(call, sizeof call, "{\"method\":\"containerManager.%s\",\"arg\":null}", method);
  bool is_answered = exchange(fd, call, answer, sizeof answer);
  close(fd);
  return is_answered && strstr(answer, "\"success\":true");
}

#endif
