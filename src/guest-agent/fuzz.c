/*
 * The agent under test in an empty world. Whatever came before, what it sends must be good frames, and after zeros and a
 * HELLO it must answer a PING.
 */
#include "fuzz.h"

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
#include "bytes.h"

enum { OUTPUT_BYTES = 1 << 20, PREAMBLE = 32800, MAX_TURNS = 20000 };

static struct agent agent;
static int host = -1;
static const struct fuzz_input *current;
static uint8_t output[OUTPUT_BYTES];
static size_t output_length;

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

void fuzz_add(struct fuzz_input *input, const void *bytes, size_t count) {
  if (count > sizeof input->bytes - input->length) return;
  if (count > 0) memcpy(input->bytes + input->length, bytes, count);
  input->length += count;
}

static void add_frame(struct fuzz_input *input, enum frame_type type, uint32_t stream, const uint8_t *payload, size_t length) {
  uint8_t frame[256];
  memcpy(frame + HEADER_BYTES, payload, length);
  fuzz_add(input, frame, frame_seal(frame, type, 0, stream, length));
}

void fuzz_add_hello(struct fuzz_input *input, uint64_t nonce) {
  static const uint8_t zeros[PREAMBLE];
  uint8_t hello[HELLO_BYTES] = {'f', 'i', 'r', 'k', 'i', 'n', 0, 1, 0, PROTOCOL_VERSION};
  put_u64(hello + 10, nonce);
  put_u64(hello + 18, ~nonce);
  fuzz_add(input, zeros, sizeof zeros);
  add_frame(input, FRAME_HELLO, 0, hello, sizeof hello);
}

/* Sends the input and collects what the agent says until it has nothing more to do. */
static void exchange(const struct fuzz_input *input) {
  size_t sent = 0;
  current = input;
  output_length = 0;
  for (int turns = 0; turns < MAX_TURNS; turns++) {
    ssize_t written = sent < input->length ? write(host, input->bytes + sent, input->length - sent) : 0;
    if (written > 0) sent += (size_t)written;
    agent_turn(&agent, 0);
    ssize_t count = read(host, output + output_length, sizeof output - output_length);
    if (count > 0) output_length += (size_t)count;
    /* What fills the output is not judged: only the beginning of it is of interest. */
    if (output_length == sizeof output) output_length = 0;
    bool idle = written <= 0 && count <= 0 && sent == input->length && !agent.has_more && !link_is_busy(&agent.link);
    if (idle) break;
  }
  agent.should_exit = false;
  agent.shutdown = (struct shutdown){0};
}

/* After the WELCOME with this nonce there must be good frames only; returns whether stream `wanted` ended ok. */
static bool check_output(uint64_t nonce, uint32_t wanted) {
  uint8_t expected[HEADER_BYTES + 8] = {FRAME_WELCOME};
  bool found = false;
  size_t at = 0;
  put_u64(expected + HEADER_BYTES, nonce);
  for (; at + sizeof expected <= output_length; at++) {
    bool is_header = output[at] == FRAME_WELCOME && memcmp(output + at + HEADER_BYTES, expected + HEADER_BYTES, 8) == 0;
    if (is_header) break;
  }
  while (at < output_length) {
    struct frame frame;
    enum verdict verdict = frame_judge(output + at, output_length - at, &frame);
    if (verdict == VERDICT_INCOMPLETE) break;
    if (verdict != VERDICT_FRAME) fail("the agent sent a bad frame");
    if (frame.type == FRAME_HELLO || frame.type == FRAME_OPEN || frame.type == FRAME_RESET || frame.type == FRAME_CONTROL) {
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
  add_frame(&input, FRAME_OPEN, 1, ping, sizeof ping);
  exchange(&input);
  if (!check_output(nonce, 1)) fail("the agent did not answer a PING after a HELLO");
}

/* Another HELLO rightly cuts the output off in the middle of a frame. */
static bool has_another_hello(const struct fuzz_input *input) {
  static const uint8_t magic[] = {'f', 'i', 'r', 'k', 'i', 'n', 0, 1};
  size_t after_first = PREAMBLE + HEADER_BYTES + sizeof magic;
  return memmem(input->bytes + after_first, input->length - after_first, magic, sizeof magic) != NULL;
}

void fuzz_round(struct fuzz_input *input, uint64_t nonce) {
  exchange(input);
  if (!has_another_hello(input)) check_output(nonce, 0);
  expect_ping(~nonce);
}

void fuzz_start(void) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) abort();
  fcntl(ends[0], F_SETFL, O_NONBLOCK);
  host = ends[0];
  if (!agent_start(&agent, (struct options){0}) || !source_use_fd(&agent, ends[1])) abort();
}

void fuzz_stop(void) {
  agent_stop(&agent);
  close(host);
}

/* The leak check at the end needs /proc; read-only, since the agent may be told to write anywhere. */
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
