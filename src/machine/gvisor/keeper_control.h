/*
 * Calls to the sandbox without runsc, which takes longer to start than a pause takes. The protocol is that of runsc: a
 * JSON message each way over the sandbox's control socket.
 */
#ifndef FIRKIN_KEEPER_CONTROL_H
#define FIRKIN_KEEPER_CONTROL_H

#include <sys/un.h>

#include "keeper.h"

/* Calls a method that takes nothing and returns nothing. False when it cannot be called, or does not succeed. */
static bool call_sandbox(const char *method) {
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/state/runsc-m.sock"};
  char text[1024];
  size_t length = 0;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (const void *)&address, sizeof address)) return false;
  int bytes = snprintf(text, sizeof text, "{\"method\":\"containerManager.%s\",\"arg\":null}", method);
  if (send(fd, text, (size_t)bytes, MSG_NOSIGNAL) != bytes) return false;
  /* The answer is one object, without others in it. */
  while (length < sizeof text - 1) {
    ssize_t got = recv(fd, text + length, sizeof text - 1 - length, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    length += (size_t)got;
    text[length] = '\0';
    if (strchr(text, '}')) break;
  }
  close(fd);
  return strstr(text, "\"success\":true") != NULL;
}

#endif
