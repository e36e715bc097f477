/*
 * Throws frames at a whole agent: random ones, mutated ones and the files of the corpus. Whatever came before, what the
 * agent sends must be good frames, and after zeros and a HELLO it must answer a PING. Runs in an empty root without
 * network, so that it can ask for anything. Usage: firkin-fuzz ROUNDS SEED [FILE...]; exits 77 where it cannot isolate itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"
#include "bytes.h"

enum { INPUT_BYTES = 262144, OUTPUT_BYTES = 1 << 20, MAX_FILES = 256, PREAMBLE = 32800, SKIPPED = 77, MAX_TURNS = 20000 };

static struct agent agent;
static int host = -1;
static uint64_t random_state = 1;

static uint8_t input[INPUT_BYTES];
static size_t input_length;
static uint8_t output[OUTPUT_BYTES];
static size_t output_length;

struct corpus_file {
  uint8_t *bytes;
  size_t length;
};

static struct corpus_file corpus[MAX_FILES];
static size_t corpus_count;

/* SYNC must not flush the disks of the machine the test runs on. */
void sync(void) {}

static uint32_t roll(uint32_t sides) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return (uint32_t)(random_state >> 32) % sides;
}

static void fail(const char *what) {
  fprintf(stderr, "firkin-fuzz: %s\n", what);
  FILE *file = fopen("/failed-input", "w");
  if (file != NULL) fwrite(input, 1, input_length, file);
  abort();
}

static void add(const void *bytes, size_t count) {
  if (count > sizeof input - input_length) return;
  if (count > 0) memcpy(input + input_length, bytes, count);
  input_length += count;
}

static void add_frame(uint8_t type, uint32_t stream, const uint8_t *payload, size_t length) {
  static uint8_t frame[MAX_FRAME];
  if (length > 0) memcpy(frame + HEADER_BYTES, payload, length);
  add(frame, frame_seal(frame, type, 0, stream, length));
}

static void add_hello(uint64_t nonce) {
  static const uint8_t zeros[PREAMBLE];
  uint8_t hello[HELLO_BYTES] = {'f', 'i', 'r', 'k', 'i', 'n', 0, 1, 0, PROTOCOL_VERSION};
  put_u64(hello + 10, nonce);
  put_u64(hello + 18, ~nonce);
  add(zeros, sizeof zeros);
  add_frame(FRAME_HELLO, 0, hello, sizeof hello);
}

static const char *const texts[] = {"",     "/",      "/a",       "/a/b/c", "~/x",  "..",       "/a/../../b", "root", "0",
                                    "true", "/a/b",   "A=1",      "=",      "PATH=/a", "relative", "/c/d/e/f",   "host"};

static size_t random_field(uint8_t *at) {
  uint8_t tag = (uint8_t)(1 + roll(50));
  size_t length;
  switch (roll(4)) {
    case 0:
      length = 8;
      put_u64(at + 5, roll(3) == 0 ? ~0ull : roll(300));
      break;
    case 1:
      length = 1;
      at[5] = (uint8_t)roll(3);
      break;
    default: {
      const char *text = texts[roll(sizeof texts / sizeof texts[0])];
      length = strlen(text);
      memcpy(at + 5, text, length);
    }
  }
  at[0] = tag;
  put_u32(at + 1, (uint32_t)length);
  return 5 + length;
}

static void add_random_frame(void) {
  static const uint8_t types[] = {FRAME_OPEN, FRAME_OPEN, FRAME_OPEN,  FRAME_OPEN,    FRAME_DATA,
                                  FRAME_END,  FRAME_DATA, FRAME_RESET, FRAME_CONTROL, FRAME_WINDOW};
  uint8_t payload[1024];
  uint8_t type = types[roll(sizeof types)];
  uint32_t stream = type == FRAME_OPEN ? 1 + roll(2000) : 1 + roll(40);
  size_t length = 0;
  if (type == FRAME_OPEN || type == FRAME_CONTROL) {
    put_u16(payload, (uint16_t)(1 + roll(20)));
    length = 2;
    for (uint32_t fields = roll(8); fields > 0; fields--) length += random_field(payload + length);
  } else if (type == FRAME_DATA) {
    length = roll(sizeof payload);
    memset(payload, 'd', length);
  } else if (type == FRAME_WINDOW) {
    length = 4;
    put_u32(payload, roll(2) == 0 ? 0 : roll(70000));
  }
  add_frame(type, stream, payload, length);
}

/* Damages what is in the input from `from` on. */
static void mutate(size_t from) {
  if (input_length == from) return;
  for (uint32_t times = 1 + roll(6); times > 0; times--) {
    size_t at = from + roll((uint32_t)(input_length - from));
    switch (roll(4)) {
      case 0: input[at] = (uint8_t)roll(256); break;
      case 1: input[at] ^= (uint8_t)(1u << roll(8)); break;
      case 2: input_length = at + 1; break;
      default: add(input + from, roll((uint32_t)(input_length - from)));
    }
  }
}

static void make_input(void) {
  size_t from = input_length;
  if (corpus_count > 0 && roll(4) == 0) {
    const struct corpus_file *file = &corpus[roll((uint32_t)corpus_count)];
    add(file->bytes, file->length);
  } else {
    for (uint32_t frames = 1 + roll(20); frames > 0; frames--) add_random_frame();
  }
  if (roll(2) == 0) mutate(from);
}

/* Sends the input and collects what the agent says until it has nothing more to do. */
static void exchange(void) {
  size_t sent = 0;
  output_length = 0;
  for (int turns = 0; turns < MAX_TURNS; turns++) {
    ssize_t written = sent < input_length ? write(host, input + sent, input_length - sent) : 0;
    if (written > 0) sent += (size_t)written;
    agent_turn(&agent, 0);
    ssize_t count = read(host, output + output_length, sizeof output - output_length);
    if (count > 0) output_length += (size_t)count;
    /* What fills the output is not judged: only the beginning of it is of interest. */
    if (output_length == sizeof output) output_length = 0;
    bool idle = written <= 0 && count <= 0 && sent == input_length && !agent.has_more && !link_is_busy(&agent.link);
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
  uint8_t ping[2];
  put_u16(ping, OP_PING);
  input_length = 0;
  add_hello(nonce);
  add_frame(FRAME_OPEN, 1, ping, sizeof ping);
  exchange();
  if (!check_output(nonce, 1)) fail("the agent did not answer a PING after a HELLO");
}

/* Another HELLO rightly cuts the output off in the middle of a frame. */
static bool has_another_hello(void) {
  static const uint8_t magic[] = {'f', 'i', 'r', 'k', 'i', 'n', 0, 1};
  size_t after_first = PREAMBLE + HEADER_BYTES + sizeof magic;
  return memmem(input + after_first, input_length - after_first, magic, sizeof magic) != NULL;
}

static void one_round(uint64_t nonce) {
  exchange();
  if (!has_another_hello()) check_output(nonce, 0);
}

static void start_agent(void) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) abort();
  fcntl(ends[0], F_SETFL, O_NONBLOCK);
  host = ends[0];
  if (!agent_start(&agent, (struct options){0}) || !source_use_fd(&agent, ends[1])) abort();
}

/* The leak check at the end needs /proc; read-only, since the agent may be told to write anywhere. */
static bool mount_proc(void) {
  mkdir("proc", 0755);
  return unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL) == 0 &&
         mount("/proc", "proc", NULL, MS_BIND, NULL) == 0 &&
         mount(NULL, "proc", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) == 0;
}

static bool isolate(const char *folder, bool *has_proc) {
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

#ifdef FIRKIN_LIBFUZZER

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static uint64_t nonce = 1;
  if (host < 0) {
    char folder[] = "/tmp/firkin-fuzz-XXXXXX";
    bool has_proc;
    if (mkdtemp(folder) == NULL || !isolate(folder, &has_proc)) exit(SKIPPED);
    start_agent();
  }
  input_length = 0;
  add_hello(++nonce);
  add(data, size);
  one_round(nonce);
  expect_ping(++nonce);
  return 0;
}

#else

static void load_corpus(char **paths, int count) {
  for (int i = 0; i < count && corpus_count < MAX_FILES; i++) {
    FILE *file = fopen(paths[i], "r");
    struct corpus_file *entry = &corpus[corpus_count];
    if (file == NULL) continue;
    entry->bytes = malloc(INPUT_BYTES / 2);
    entry->length = entry->bytes == NULL ? 0 : fread(entry->bytes, 1, INPUT_BYTES / 2, file);
    if (entry->length > 0) {
      corpus_count++;
    } else {
      free(entry->bytes);
    }
    fclose(file);
  }
}

static void free_corpus(void) {
  for (size_t i = 0; i < corpus_count; i++) free(corpus[i].bytes);
}

static int run(const char *folder, unsigned long rounds) {
  bool has_proc;
  if (!isolate(folder, &has_proc)) _exit(SKIPPED);
  start_agent();
  for (unsigned long i = 0; i < rounds; i++) {
    uint64_t nonce = 0x1000000 + 2 * i;
    input_length = 0;
    add_hello(nonce);
    make_input();
    one_round(nonce);
    expect_ping(nonce + 1);
  }
  agent_stop(&agent);
  free_corpus();
  printf("%lu rounds, %zu corpus files\n", rounds, corpus_count);
  fflush(stdout);
  if (!has_proc) _exit(0);
  return 0;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *place) {
  (void)info, (void)kind, (void)place;
  return remove(path);
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  unsigned long rounds = strtoul(argv[1], NULL, 10);
  random_state = strtoul(argv[2], NULL, 10) * 2654435769u + 1;
  load_corpus(argv + 3, argc - 3);
  char folder[] = "/tmp/firkin-fuzz-XXXXXX";
  if (mkdtemp(folder) == NULL) return 1;
  pid_t child = fork();
  if (child == 0) exit(run(folder, rounds));
  int status = 1;
  waitpid(child, &status, 0);
  free_corpus();
  bool failed = !WIFEXITED(status) || (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != SKIPPED);
  if (failed) {
    fprintf(stderr, "firkin-fuzz: the input is in %s/failed-input\n", folder);
    return 1;
  }
  nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
  return WEXITSTATUS(status);
}

#endif
