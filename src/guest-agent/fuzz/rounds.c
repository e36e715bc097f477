/*
 * The fuzz rounds. Whatever the input was, the agent must send good frames only, and must answer a PING after zeros and
 * a HELLO.
 */
#include "fuzz/rounds.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"
#include "base/bytes.h"
#include "link/frames.h"

enum { ANSWER_BYTES = 1 << 20, MAX_TURNS = 20000 };

static struct agent agent;
static int host = -1;
static const struct fuzz_input *current;
static uint8_t answer[ANSWER_BYTES];
static size_t answer_length;

/* SYNC must not flush the disks of the machine the test runs on. */
void sync(void) {}

static void fail(const char *what) {
  fprintf(stderr, "firkin-fuzz: %s\n", what);
  FILE *file = fopen("/failed-input", "w");
  if (file != NULL) {
    fwrite(current->bytes, 1, current->length, file);
    fclose(file);
  }
  abort();
}

/* Sends the input and collects the agent's answer until the agent has nothing more to do. */
static void exchange(const struct fuzz_input *input) {
  size_t sent = 0;
  current = input;
  answer_length = 0;
  for (int turns = 0; turns < MAX_TURNS; turns++) {
    ssize_t written = sent < input->length ? write(host, input->bytes + sent, input->length - sent) : 0;
    if (written > 0) sent += (size_t)written;
    agent_turn(&agent, 0);
    ssize_t count = read(host, answer + answer_length, sizeof answer - answer_length);
    if (count > 0) answer_length += (size_t)count;
    /* An answer that fills the buffer is not judged, because only its beginning is of interest. */
    if (answer_length == sizeof answer) answer_length = 0;
    bool idle =
        written <= 0 && count <= 0 && sent == input->length && !agent.has_more && !guest_link_is_busy(&agent.link);
    if (idle) break;
  }
  agent.link.source.over = false;
  agent.machine.shutdown = (struct shutdown){0};
}

/* After the WELCOME with this nonce there must be good frames only. True when stream `wanted` ended ok. */
static bool check_answer(uint64_t nonce, uint32_t wanted) {
  uint8_t expected[HEADER_BYTES + 8] = {FRAME_WELCOME};
  bool found = false;
  size_t at = 0;
  put_u64(expected + HEADER_BYTES, nonce);
  for (; at + sizeof expected <= answer_length; at++) {
    bool is_header = answer[at] == FRAME_WELCOME && memcmp(answer + at + HEADER_BYTES, expected + HEADER_BYTES, 8) == 0;
    if (is_header) break;
  }
  while (at < answer_length) {
    struct frame frame;
    enum verdict verdict = frame_judge(answer + at, answer_length - at, &frame);
    if (verdict == VERDICT_INCOMPLETE) break;
    if (verdict != VERDICT_FRAME) fail("the agent sent a bad frame");
    if (frame.type == FRAME_HELLO || frame.type == FRAME_OPEN || frame.type == FRAME_RESET ||
        frame.type == FRAME_CONTROL) {
      fail("the agent sent a frame that only hosts send");
    }
    if (frame.type == FRAME_RESULT && frame.stream == wanted && get_u16(frame.payload) == STATUS_OK) found = true;
    at += frame_size(&frame);
  }
  return found;
}

static void expect_ping(uint64_t nonce) {
  static struct fuzz_input input;
  uint8_t ping[2];
  put_u16(ping, OP_PING);
  input.length = 0;
  fuzz_add_hello(&input, nonce);
  fuzz_add_frame(&input, FRAME_OPEN, 1, ping, sizeof ping);
  exchange(&input);
  if (!check_answer(nonce, 1)) fail("the agent did not answer a PING after a HELLO");
}

/* Another HELLO rightly cuts the answer off in the middle of a frame. */
static bool has_another_hello(const struct fuzz_input *input) {
  static const uint8_t magic[] = {'f', 'i', 'r', 'k', 'i', 'n', 0, 1};
  size_t after_first = FUZZ_PREAMBLE + HEADER_BYTES + sizeof magic;
  return memmem(input->bytes + after_first, input->length - after_first, magic, sizeof magic) != NULL;
}

void fuzz_round(struct fuzz_input *input, uint64_t nonce) {
  exchange(input);
  if (!has_another_hello(input)) check_answer(nonce, 0);
  expect_ping(~nonce);
}

void fuzz_start(void) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) abort();
  fcntl(ends[0], F_SETFL, O_NONBLOCK);
  host = ends[0];
  if (!agent_start(&agent, (struct options){0}) || !source_use_fd(&agent.link.source, ends[1])) abort();
}

void fuzz_stop(void) {
  agent_stop(&agent);
  close(host);
}

/* The leak check at the end needs /proc. It is read-only, because the agent may be told to write anywhere. */
static bool mount_proc(void) {
  mkdir("proc", 0755);
  return unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL) == 0 &&
         mount("/proc", "proc", NULL, MS_BIND, NULL) == 0 &&
         mount(NULL, "proc", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) == 0;
}

bool fuzz_isolate(const char *folder, bool *has_proc) {
  struct rlimit file_size = {1 << 20, 1 << 20};
  if (unshare(CLONE_NEWNET) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) return false;
  if (chdir(folder) != 0) return false;
  *has_proc = mount_proc();
  if (chroot(".") != 0) return false;
  mkdir("/etc", 0755);
  FILE *passwd = fopen("/etc/passwd", "w");
  if (passwd == NULL) return false;
  fputs("root:x:0:0::/:/bin/sh\n", passwd);
  fclose(passwd);
  return setrlimit(RLIMIT_FSIZE, &file_size) == 0;
}
