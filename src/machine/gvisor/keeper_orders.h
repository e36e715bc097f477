/* The orders of the daemon, each a run of runsc, and what such a run and the guest's console say. */
#ifndef FIRKIN_KEEPER_ORDERS_H
#define FIRKIN_KEEPER_ORDERS_H

#include "keeper.h"
#include "keeper_control.h"
#include "keeper_processors.h"

enum {
  ORDER_BYTES = 1024,
  ORDER_WORDS = 16,
  MAX_FLAGS = 32,
  ORDER_POLLS = 2,
  SAID_BYTES = 500,
  LOG_BYTES = 256 * 1024,
  MANY_DESCRIPTORS = 512,
};

static const char pid_file[] = "/state/pid";

static struct {
  int listener, connection;
  char line[ORDER_BYTES];
  size_t length;
  char **runsc;
  /* 0: none runs. */
  pid_t running;
  /* Whoever gave the order of that run is gone, and the next connection is not to get the answer. */
  bool is_unheard;
  /* What the run under way makes of the sandbox when it is done: it stands still, or it goes on. */
  bool is_paused, pauses, resumes;
  /* The run under way starts the sandbox, which shows its guest so many processors. */
  bool starts;
  int processors;
  /* What runs of runsc say, and what the guest says on its console, which runsc hands on to it. */
  int console[2];
  /* The guest's ends of its link. */
  int guest[2];
  char said[SAID_BYTES];
  size_t said_length;
  size_t logged;
} orders = {.connection = -1};

static void orders_start(int listener, int processors, char **runsc) {
  orders.processors = processors;
  orders.listener = listener;
  orders.runsc = runsc;
  if (pipe2(orders.console, O_CLOEXEC | O_NONBLOCK)) fail("console");
}

/* What starts the sandbox gets these as standard input and output. */
static void orders_give(int in, int out) {
  orders.guest[0] = in;
  orders.guest[1] = out;
}

/* The process of the sandbox, once runsc has written it down; 0 before. */
static pid_t sandbox_pid(void) {
  static pid_t known;
  char text[16] = {0};
  if (known > 0) return known;
  int fd = open(pid_file, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  if (read(fd, text, sizeof text - 1) > 0) known = atoi(text);
  close(fd);
  return known;
}

static void forget_orders(void) {
  close(orders.connection);
  orders.connection = -1;
  orders.length = 0;
  orders.is_unheard = orders.running != 0;
}

static void answer(const char *text) {
  if (orders.connection < 0) return;
  if (send(orders.connection, text, strlen(text), MSG_NOSIGNAL) < 0) forget_orders();
}

/*
 * A process whose threads share a table of descriptors waits some 10 ms for every processor when the table grows. It
 * is large from the beginning in everything that inherits so high a descriptor.
 */
static void hold_high_descriptor(void) {
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null >= 0) dup2(null, MANY_DESCRIPTORS - 1);
}

static _Noreturn void become_runsc(char **words) {
  char *all[MAX_FLAGS + ORDER_WORDS + 1];
  size_t count = 0;
  for (char **flag = orders.runsc; *flag && count < MAX_FLAGS; flag++) all[count++] = *flag;
  for (; *words; words++) all[count++] = *words;
  all[count] = NULL;
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  for (int fd = STDOUT_FILENO; fd <= STDERR_FILENO; fd++) dup2(orders.console[1], fd);
  signal(SIGPIPE, SIG_DFL);
  if (orders.starts) {
    show_processors(orders.processors);
    hold_high_descriptor();
    dup2(orders.guest[0], STDIN_FILENO);
    dup2(orders.guest[1], STDOUT_FILENO);
  }
  execv(all[0], all);
  dprintf(STDERR_FILENO, "%s: %s", all[0], strerror(errno));
  _exit(127);
}

/* The value of a flag that ends with `=`; NULL without it. */
static const char *value_of(const char *flag, char **words) {
  size_t length = strlen(flag);
  for (; *words; words++) {
    if (strncmp(*words, flag, length) == 0) return *words + length;
  }
  return NULL;
}

/* Returns where runsc has to do it: another runsc than the set-up's has no such flag, and other calls. */
static void checkpoint_and_exit(char **words) {
  const char *index = value_of("--pages-file-index=", words), *folder = value_of("--image-path=", words);
  if (!index || !folder) return;
  dup2(orders.console[1], STDERR_FILENO);
  _exit(call_checkpoint(folder, strtoul(index, NULL, 10)) ? 0 : 1);
}

static void run_order(char **words) {
  orders.said_length = 0;
  pid_t pid = fork();
  if (pid < 0) fail("fork");
  if (pid == 0) {
    if (orders.pauses && call_sandbox("Pause")) _exit(0);
    if (orders.resumes && call_sandbox("Resume")) _exit(0);
    if (strcmp(words[0], "checkpoint") == 0) checkpoint_and_exit(words);
    become_runsc(words);
  }
  orders.running = pid;
  orders.is_unheard = false;
}

/*
 * The others would end with this process, but only after it has closed what it has. To close a packet socket takes the
 * kernel 8 ms, and gVisor has one, too.
 */
static _Noreturn void end_all(void) {
  kill(-1, SIGKILL);
  _exit(0);
}

static void take_order(char *line) {
  char *words[ORDER_WORDS + 1] = {NULL};
  size_t count = 0;
  for (char *word; (word = strsep(&line, " ")) && count < ORDER_WORDS;) {
    if (*word) words[count++] = word;
  }
  if (count == 0) return answer("error: no order\n");
  if (strcmp(words[0], "end") == 0) end_all();
  if (strcmp(words[0], "sync") == 0) {
    int disk = open("/disk", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool good = disk >= 0 && syncfs(disk) == 0;
    if (disk >= 0) close(disk);
    return answer(good ? "ok\n" : "error: the disk cannot be written\n");
  }
  if (strcmp(words[0], "state") == 0) return answer(orders.is_paused ? "ok paused\n" : "ok running\n");
  orders.pauses = strcmp(words[0], "pause") == 0;
  orders.resumes = strcmp(words[0], "resume") == 0;
  orders.starts = strcmp(words[0], "create") == 0 || strcmp(words[0], "restore") == 0;
  if ((orders.pauses && orders.is_paused) || (orders.resumes && !orders.is_paused)) return answer("ok\n");
  run_order(words);
}

/* Takes what was said: the beginning of what comes during a run for its answer, and a bounded part for the log. */
static void listen_to_console(void) {
  char bytes[4096];
  ssize_t got;
  while ((got = read(orders.console[0], bytes, sizeof bytes)) > 0) {
    size_t length = (size_t)got, kept = orders.running ? SAID_BYTES - 1 - orders.said_length : 0;
    if (kept > length) kept = length;
    memcpy(orders.said + orders.said_length, bytes, kept);
    orders.said_length += kept;
    if (orders.logged + length > LOG_BYTES) continue;
    orders.logged += length;
    ssize_t ignored = write(STDERR_FILENO, bytes, length);
    (void)ignored;
  }
}

/* True when the process was a run of runsc; its order is answered then. */
static bool orders_ended(pid_t pid, int ended) {
  char text[SAID_BYTES + 64];
  if (pid != orders.running) return false;
  listen_to_console();
  orders.running = 0;
  if (orders.starts && sandbox_pid() > 0) give_all_processors(sandbox_pid());
  for (size_t i = 0; i < orders.said_length; i++) {
    if (orders.said[i] == '\n' || orders.said[i] == '\0') orders.said[i] = ' ';
  }
  orders.said[orders.said_length] = '\0';
  if (WIFEXITED(ended) && WEXITSTATUS(ended) == 0) {
    if (orders.pauses || orders.resumes) orders.is_paused = orders.pauses;
    if (!orders.is_unheard) answer("ok\n");
    return true;
  }
  snprintf(text, sizeof text, "error: runsc ended with %d: %s\n", ended, orders.said);
  if (!orders.is_unheard) answer(text);
  return true;
}

static void orders_watch(struct pollfd polls[ORDER_POLLS]) {
  bool is_open = orders.connection >= 0;
  bool takes = orders.running == 0;
  polls[0] = is_open ? (struct pollfd){.fd = orders.connection, .events = takes ? POLLIN : POLLRDHUP}
                     : (struct pollfd){.fd = orders.listener, .events = POLLIN};
  polls[1] = (struct pollfd){.fd = orders.console[0], .events = POLLIN};
}

static void orders_serve(const struct pollfd polls[ORDER_POLLS]) {
  if (polls[1].revents & POLLIN) listen_to_console();
  if (!polls[0].revents) return;
  if (orders.connection < 0) {
    orders.connection = accept4(orders.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    return;
  }
  if (orders.running != 0) return forget_orders();
  ssize_t got = read(orders.connection, orders.line + orders.length, ORDER_BYTES - 1 - orders.length);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) return forget_orders();
  orders.length += (size_t)got;
  char *end = memchr(orders.line, '\n', orders.length);
  if (!end) return;
  *end = '\0';
  orders.length = 0;
  take_order(orders.line);
}

#endif
