/*
 * Calls to the sandbox without runsc, which takes longer to start than a pause takes. The protocol is that of runsc: a
 * JSON message each way over the sandbox's control socket.
 */
#ifndef FIRKIN_KEEPER_CONTROL_H
#define FIRKIN_KEEPER_CONTROL_H

#include <sys/un.h>

#include "keeper.h"

enum { CALL_BYTES = 512, ANSWER_BYTES = 2048, CHECKPOINT_FILES = 3 };

/* Sends a call with the files it is about. */
static bool send_call(int fd, const char *call, const int *files, size_t count) {
  struct iovec text = {.iov_base = (void *)call, .iov_len = strlen(call)};
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(CHECKPOINT_FILES * sizeof(int))];
  } control = {0};
  struct msghdr message = {.msg_iov = &text, .msg_iovlen = 1};
  if (count > 0) {
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(header), files, count * sizeof(int));
  }
  return sendmsg(fd, &message, MSG_NOSIGNAL) == (ssize_t)text.iov_len;
}

/* Reads an answer, which is one object without others in it. */
static bool receive_answer(int fd, char answer[ANSWER_BYTES]) {
  size_t length = 0;
  while (length < ANSWER_BYTES - 1) {
    ssize_t got = recv(fd, answer + length, ANSWER_BYTES - 1 - length, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    length += (size_t)got;
    answer[length] = '\0';
    if (answer[length - 1] == '}') return true;
  }
  return false;
}

/* Calls a method. False when it cannot be called; otherwise the answer says whether it succeeded. */
static bool call_with(const char *call, const int *files, size_t count, char answer[ANSWER_BYTES]) {
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/state/runsc-m.sock"};
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  bool is_answered = connect(fd, (const void *)&address, sizeof address) == 0 && send_call(fd, call, files, count) &&
                     receive_answer(fd, answer);
  close(fd);
  return is_answered;
}

static bool has_succeeded(const char *answer) { return strstr(answer, "\"success\":true") != NULL; }

/* Calls a method that takes nothing and returns nothing. False when it cannot be called, or does not succeed. */
static bool call_sandbox(const char *method) {
  char call[CALL_BYTES], answer[ANSWER_BYTES];
  snprintf(call, sizeof call, "{\"method\":\"containerManager.%s\",\"arg\":null}", method);
  return call_with(call, NULL, 0, answer) && has_succeeded(answer);
}

/*
 * Writes a checkpoint to three new files in the folder: state, places of pages, pages. The sandbox goes on. On failure
 * the files are left to whoever gave the order, and standard error says why.
 */
static bool call_checkpoint(const char *folder, unsigned long index) {
  char names[CHECKPOINT_FILES][64] = {"checkpoint.img", "pages_meta.img", "pages.img"};
  char call[CALL_BYTES], answer[ANSWER_BYTES];
  int files[CHECKPOINT_FILES];
  if (index > 0) snprintf(names[2], sizeof names[2], "pages-%lu.img", index);
  int folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  for (size_t i = 0; i < CHECKPOINT_FILES; i++) {
    files[i] = openat(folder_fd, names[i], O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0644);
    if (files[i] >= 0) continue;
    dprintf(STDERR_FILENO, "%s: %s", names[i], strerror(errno));
    return false;
  }
  snprintf(call, sizeof call,
           "{\"method\":\"containerManager.Checkpoint\",\"arg\":{\"metadata\":{\"compression\":\"none\"},"
           "\"have_pages_file\":true,\"pages_file_index\":%lu,\"Resume\":true}}",
           index);
  if (!call_with(call, files, CHECKPOINT_FILES, answer)) {
    dprintf(STDERR_FILENO, "the sandbox does not answer");
    return false;
  }
  if (has_succeeded(answer)) return true;
  dprintf(STDERR_FILENO, "checkpoint failed: %s", answer);
  return false;
}

#endif
