/*
 * SETUP checks everything before it applies anything. Files come last, after the answer, because writing the first ones
 * takes a just restored machine longer than all the rest together. No request sees them missing, because the agent
 * reads none before they are there.
 */
#include "machine/setup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "accounts/paths.h"
#include "base/small_file.h"
#include "base/string_list.h"
#include "boot/console.h"
#include "boot/hostname.h"
#include "files/parents.h"
#include "machine/machine.h"

enum { MIN_ENTROPY_BYTES = 32 };

/* The wishes of a request, checked. */
struct plan {
  bool has_time;
  uint64_t time_ns;
  struct slice entropy;
  bool has_hostname;
  char hostname[HOSTNAME_BYTES];
  bool has_env;
  struct string_list env;
  bool has_user;
  char default_user[ACCOUNT_NAME_BYTES];
  bool has_cwd;
  char default_cwd[SETTING_PATH_BYTES];
};

static const struct account root = {.name = "root", .home = "/root", .shell = "/bin/sh"};

/* Takes the next FILE off `fields` and resolves it. 1: there is one, 0: there is none left, -1: it is malformed. */
static int next_file(struct slice *fields, char path[PATH_BYTES], struct slice *content, mode_t *mode) {
  struct slice group, value;
  uint8_t tag;
  do {
    if (!fields_next(fields, &tag, &group)) return 0;
  } while (tag != TAG_FILE);
  struct request file = {.fields = group};
  char asked[PATH_BYTES];
  if (!fields_check(group) || !request_text(&file, TAG_PATH, asked, sizeof asked)) return -1;
  if (path_resolve(root.home, "", asked, path) != NULL) return -1;
  *content = (struct slice){0};
  if (fields_find(group, TAG_VALUE, &value)) *content = value;
  *mode = (mode_t)(request_int(&file, TAG_MODE, 0644) & 07777);
  return file.problem == NULL ? 1 : -1;
}

static const char *check_files(struct slice fields) {
  char path[PATH_BYTES];
  struct slice content;
  mode_t mode;
  int found;
  while ((found = next_file(&fields, path, &content, &mode)) > 0) {}
  return found == 0 ? NULL : "a file to put in place is malformed";
}

static const char *take_env(struct slice fields, struct plan *plan) {
  struct slice value;
  uint8_t tag;
  while (fields_next(&fields, &tag, &value)) {
    if (tag != TAG_ENV) continue;
    char *text = slice_to_string(value);
    if (text == NULL || text[0] == '=' || strchr(text, '=') == NULL) {
      free(text);
      return "a variable is not KEY=VALUE";
    }
    plan->has_env = true;
    if (!list_set_variable(&plan->env, text)) return "out of memory";
  }
  return NULL;
}

/* Reads the request. Returns a sentence about the problem, or NULL. */
static const char *take_plan(struct request *request, struct plan *plan) {
  plan->has_time = request_has(request, TAG_TIME_NS);
  plan->time_ns = request_int(request, TAG_TIME_NS, 0);
  plan->has_hostname = request_text(request, TAG_HOSTNAME, plan->hostname, sizeof plan->hostname);
  plan->has_user = request_text(request, TAG_DEFAULT_USER, plan->default_user, sizeof plan->default_user);
  plan->has_cwd = request_text(request, TAG_DEFAULT_CWD, plan->default_cwd, sizeof plan->default_cwd);
  plan->has_env = request_has(request, TAG_COUNT) && request_int(request, TAG_COUNT, 1) == 0;
  if (request->problem != NULL) return request->problem;
  bool has_entropy = fields_find(request->fields, TAG_ENTROPY, &plan->entropy);
  if (!has_entropy) plan->entropy = (struct slice){0};
  if (has_entropy && plan->entropy.length < MIN_ENTROPY_BYTES) return "there are fewer than 32 bytes of entropy";
  if (plan->has_hostname && !hostname_is_valid(plan->hostname)) return "that is no host name";
  if (plan->has_user && plan->default_user[0] == '\0') return "the default user has no name";
  const char *problem = take_env(request->fields, plan);
  return problem != NULL ? problem : check_files(request->fields);
}

static bool set_clock(uint64_t time_ns) {
  struct timespec time = {.tv_sec = (time_t)(time_ns / 1000000000), .tv_nsec = (long)(time_ns % 1000000000)};
  return clock_settime(CLOCK_REALTIME, &time) == 0;
}

/* Adds the bytes to the random pool with full credit and makes the generator use them at once. */
static bool add_entropy(struct slice entropy) {
  struct rand_pool_info *info = malloc(sizeof *info + entropy.length);
  int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
  bool good = info != NULL && fd >= 0;
  if (good) {
    info->entropy_count = (int)(entropy.length * 8);
    info->buf_size = (int)entropy.length;
    memcpy(info->buf, entropy.bytes, entropy.length);
    good = ioctl(fd, RNDADDENTROPY, info) == 0 && ioctl(fd, RNDRESEEDCRNG) == 0;
  }
  if (info != NULL) explicit_bzero(info, sizeof *info + entropy.length);
  free(info);
  if (fd >= 0) close(fd);
  return good;
}

/* The changes that only the agent of a whole machine may make. False with errno and the `action` that failed. */
static bool apply_to_machine(const struct machine *machine, const struct plan *plan, const char **action) {
  bool has_own_kernel = !machine->options.is_gvisor;
  *action = "cannot set the clock";
  if (has_own_kernel && plan->has_time && !set_clock(plan->time_ns)) return false;
  *action = "cannot add entropy";
  if (has_own_kernel && plan->entropy.length > 0 && !add_entropy(plan->entropy)) return false;
  *action = "cannot set the host name";
  return !plan->has_hostname || sethostname(plan->hostname, strlen(plan->hostname)) == 0;
}

static void apply_to_settings(struct settings *settings, struct plan *plan) {
  if (plan->has_user) strcpy(settings->default_user, plan->default_user);
  if (plan->has_cwd) strcpy(settings->default_cwd, plan->default_cwd);
  if (!plan->has_env) return;
  list_clear(&settings->env);
  settings->env = plan->env;
  plan->env = (struct string_list){0};
}

/* Writes the environment for the kept program, `NAME=VALUE` with a zero byte after each. */
static void put_environment(const struct machine *machine) {
  const struct string_list *env = &machine->accounts->settings.env;
  const char *path = machine->processes->keeper.environment_file;
  size_t length = 0;
  for (size_t i = 0; i < env->count; i++) length += strlen(env->items[i]) + 1;
  char *text = malloc(length + 1), *end = text;
  for (size_t i = 0; text != NULL && i < env->count; i++) end = stpcpy(end, env->items[i]) + 1;
  bool good = text != NULL && make_parents(path, &root) && put_file(path, text, length, 0600);
  if (!good) say("cannot put %s in place: %s", path, strerror(errno));
  free(text);
}

static void put_files(struct slice fields) {
  char path[PATH_BYTES];
  struct slice content;
  mode_t mode;
  while (next_file(&fields, path, &content, &mode) > 0) {
    if (make_parents(path, &root) && put_file(path, content.bytes, content.length, mode)) continue;
    say("cannot put %s in place: %s", path, strerror(errno));
  }
}

/*
 * The answer has gone by then, because a full disk is no reason to refuse a machine. The console names the missing
 * files.
 */
static void put_in_place(const struct machine *machine, const struct plan *plan, struct slice fields) {
  if (plan->has_env && machine->processes->keeper.program != NULL) put_environment(machine);
  if (machine->options.privileged_setup && plan->has_hostname && !hostname_write_files(plan->hostname)) {
    say("cannot write the host name: %s", strerror(errno));
  }
  put_files(fields);
}

void open_setup(struct request *request) {
  struct stream *stream = request->stream;
  struct machine *machine = stream->room;
  struct plan plan = {0};
  const char *action = NULL;
  const char *problem = take_plan(request, &plan);
  if (problem != NULL) {
    stream_fail(stream, STATUS_INVALID_ARGUMENT, "%s", problem);
  } else if (machine->options.privileged_setup && !apply_to_machine(machine, &plan, &action)) {
    stream_fail_errno(stream, errno, NULL, action);
  } else {
    apply_to_settings(&machine->accounts->settings, &plan);
    stream_finish(stream, STATUS_OK);
    guest_link_send(machine->link);
    put_in_place(machine, &plan, request->fields);
  }
  list_clear(&plan.env);
}
