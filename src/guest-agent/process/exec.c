/* EXEC: from the fields of an OPEN to a running program. */
#include "process/exec.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "accounts/place.h"
#include "base/string_list.h"
#include "process/children.h"
#include "process/login.h"
#include "process/output.h"
#include "process/spawn.h"
#include "process/wiring.h"

enum {
  MAX_VARIABLES = 4096,
  /* LIST leaves the environment, and then the arguments, out of a larger description. */
  MAX_DESCRIPTION = 16384,
};

static const char standard_path[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
static const char own_programs[] = "/.local/bin:";

/* The wishes of an EXEC, resolved. */
struct command {
  struct account account;
  char program[PATH_BYTES];
  char cwd[PATH_BYTES];
  char tag[PATH_BYTES];
  bool has_tag;
  bool has_stdin;
  bool terminal;
  uint64_t columns;
  uint64_t rows;
  /* The program's name first; both lists end in NULL once `terminated`. */
  struct string_list arguments;
  struct string_list environment;
  struct string_list candidates;
};

static void command_clear(struct command *command) {
  list_clear(&command->arguments);
  list_clear(&command->environment);
  list_clear(&command->candidates);
}

static char *format_variable(const char *key, const char *value) {
  char *text = NULL;
  return asprintf(&text, "%s=%s", key, value) < 0 ? NULL : text;
}

static char *format_path(const struct account *account) {
  char *text = NULL;
  return asprintf(&text, "PATH=%s%s%s", account->home, own_programs, standard_path) < 0 ? NULL : text;
}

static bool add_account_variables(struct command *command) {
  struct string_list *list = &command->environment;
  const struct account *account = &command->account;
  return list_add(list, format_path(account)) && list_add(list, format_variable("HOME", account->home)) &&
         list_add(list, format_variable("USER", account->name)) &&
         list_add(list, format_variable("LOGNAME", account->name)) &&
         list_add(list, format_variable("SHELL", account->shell)) && list_add(list, format_variable("LANG", "C.UTF-8"));
}

static bool is_variable(const char *text) { return text[0] != '=' && strchr(text, '=') != NULL; }

/* Takes ARGUMENT and ENV. Returns a sentence about the problem, or NULL. */
static const char *take_lists(const struct request *request, struct command *command) {
  struct slice fields = request->fields, value;
  uint8_t tag;
  while (fields_next(&fields, &tag, &value)) {
    if (tag != TAG_ARGUMENT && tag != TAG_ENV) continue;
    char *text = slice_to_string(value);
    if (text == NULL) return "an argument or variable holds a NUL byte";
    if (tag == TAG_ENV && (!is_variable(text) || command->environment.count >= MAX_VARIABLES)) {
      free(text);
      return "a variable is not KEY=VALUE, or there are too many";
    }
    bool added = tag == TAG_ENV ? list_set_variable(&command->environment, text) : list_add(&command->arguments, text);
    if (!added) return "out of memory";
  }
  return NULL;
}

static bool add_global_variables(const struct settings *settings, struct command *command) {
  for (size_t i = 0; i < settings->env.count; i++) {
    if (!list_set_variable(&command->environment, strdup(settings->env.items[i]))) return false;
  }
  return true;
}

/*
 * The paths where the program may be: its name if that has a slash, otherwise below each folder of the process's PATH.
 */
static bool find_candidates(struct command *command) {
  struct string_list *list = &command->candidates;
  if (strchr(command->program, '/') != NULL) return list_add(list, strdup(command->program));
  const char *path = standard_path;
  for (size_t i = 0; i < command->environment.count; i++) {
    if (strncmp(command->environment.items[i], "PATH=", 5) == 0) path = command->environment.items[i] + 5;
  }
  while (*path != '\0') {
    size_t length = strcspn(path, ":");
    char *candidate = NULL;
    if (asprintf(&candidate, "%.*s/%s", length == 0 ? 1 : (int)length, length == 0 ? "." : path, command->program) <
        0) {
      return false;
    }
    if (!list_add(list, candidate)) return false;
    path += path[length] == ':' ? length + 1 : length;
  }
  return true;
}

/* Puts NULL behind the last item without counting it. */
static bool terminate(struct string_list *list) {
  if (!list_add(list, strdup(""))) return false;
  free(list->items[--list->count]);
  list->items[list->count] = NULL;
  return true;
}

static bool check_cwd(struct stream *stream, const char *cwd) {
  struct stat info;
  if (stat(cwd, &info) != 0) {
    if (errno == ENOENT || errno == ENOTDIR) {
      stream_fail(stream, STATUS_INVALID_ARGUMENT, "cwd '%s' does not exist", cwd);
    } else {
      stream_fail(stream, STATUS_INVALID_ARGUMENT, "cwd '%s': %s", cwd, strerror(errno));
    }
    return false;
  }
  if (!S_ISDIR(info.st_mode)) stream_fail(stream, STATUS_INVALID_ARGUMENT, "cwd '%s' is not a directory", cwd);
  return S_ISDIR(info.st_mode);
}

/* Reads the simple fields. False when the stream has been ended. */
static bool take_fields(struct request *request, struct accounts *accounts, struct command *command) {
  char cwd[PATH_BYTES];
  request_text(request, TAG_COMMAND, command->program, sizeof command->program);
  request_text(request, TAG_CWD, cwd, sizeof cwd);
  command->has_tag = request_text(request, TAG_TAG, command->tag, sizeof command->tag);
  command->terminal = request_bool(request, TAG_PTY);
  command->has_stdin = request_bool(request, TAG_STDIN) || command->terminal;
  command->columns = request_int(request, TAG_COLUMNS, 0);
  command->rows = request_int(request, TAG_ROWS, 0);
  if (request->problem == NULL && command->program[0] == '\0') request->problem = "there is no command to run";
  if (request_refused(request) || !request_account(request, accounts, &command->account)) return false;
  return request_resolve(request->stream, accounts, &command->account, cwd, command->cwd) &&
         check_cwd(request->stream, command->cwd);
}

/* Reads the whole request. False when the stream has been ended. */
static bool take_command(struct request *request, struct command *command) {
  struct process_table *table = request->stream->room;
  if (!take_fields(request, table->accounts, command)) return false;
  bool good = list_add(&command->arguments, strdup(command->program)) && add_account_variables(command) &&
              add_login_variables(&command->environment) && add_global_variables(&table->accounts->settings, command);
  request->problem = good ? take_lists(request, command) : "out of memory";
  if (request_refused(request)) return false;
  good = find_candidates(command) && terminate(&command->candidates) && terminate(&command->arguments) &&
         terminate(&command->environment);
  if (!good) stream_fail(request->stream, STATUS_RESOURCE_EXHAUSTED, "out of memory");
  return good;
}

static void report(struct stream *stream, const struct command *command, const struct spawn_failure *failure) {
  struct writer *scratch = &stream->table->scratch;
  char message[PATH_BYTES + 256];
  const char *what = strerror(failure->error);
  switch (failure->step) {
    case SPAWN_FORK:
    case SPAWN_SESSION: stream_fail_errno(stream, failure->error, NULL, "cannot start a process"); return;
    case SPAWN_IDENTITY:
      snprintf(message, sizeof message, "cannot become user '%s': %s", command->account.name, what);
      break;
    case SPAWN_CWD: snprintf(message, sizeof message, "cwd '%s': %s", command->cwd, what); break;
    case SPAWN_PROGRAM: snprintf(message, sizeof message, "cannot run '%s': %s", command->program, what); break;
  }
  writer_start(scratch, 0);
  put_string(scratch, TAG_MESSAGE, message);
  put_int(scratch, TAG_ERRNO, (uint64_t)failure->error);
  stream_finish_with_scratch(stream, STATUS_INVALID_ARGUMENT);
}

static pid_t start_program(struct stream *stream, const struct command *command, const struct wiring *wiring) {
  const struct process_table *table = stream->room;
  gid_t groups[MAX_GROUPS];
  struct spawn plan = {
      .programs = command->candidates.items,
      .arguments = command->arguments.items,
      .environment = command->environment.items,
      .cwd = command->cwd,
      .stdio = {wiring->theirs[0], wiring->theirs[1], wiring->theirs[2]},
      .terminal = command->terminal,
      .uid = command->account.uid,
      .gid = command->account.gid,
      .groups = groups,
      .group_count = book_groups(&table->accounts->book, &command->account, groups),
      .dies_with_agent = table->die_with_agent,
  };
  struct spawn_failure failure;
  pid_t pid = spawn(&plan, &failure);
  if (pid < 0) report(stream, command, &failure);
  return pid;
}

static void put_list(struct writer *writer, const struct request *request, uint8_t wanted) {
  struct slice fields = request->fields, value;
  uint8_t tag;
  while (fields_next(&fields, &tag, &value)) {
    if (tag == wanted) put_bytes(writer, tag, value.bytes, value.length);
  }
}

static bool describe_with(struct request *request, const struct command *command, bool arguments, bool environment) {
  struct writer *scratch = &request->stream->table->scratch;
  scratch->length = 0;
  scratch->overflow = false;
  put_string(scratch, TAG_COMMAND, command->program);
  put_string(scratch, TAG_CWD, command->cwd);
  if (command->has_tag) put_string(scratch, TAG_TAG, command->tag);
  put_bool(scratch, TAG_PTY, command->terminal);
  put_bool(scratch, TAG_STDIN, command->has_stdin);
  if (arguments) put_list(scratch, request, TAG_ARGUMENT);
  if (environment) put_list(scratch, request, TAG_ENV);
  return !scratch->overflow && scratch->length <= MAX_DESCRIPTION;
}

/* Writes the fields that LIST sends of the process. */
static bool describe(struct request *request, const struct command *command, struct process *process) {
  const struct writer *scratch = &request->stream->table->scratch;
  if (!describe_with(request, command, true, true) && !describe_with(request, command, true, false)) {
    describe_with(request, command, false, false);
  }
  process->description = malloc(scratch->length);
  if (process->description == NULL) return false;
  memcpy(process->description, scratch->bytes, scratch->length);
  process->description_length = scratch->length;
  if (command->has_tag) process->tag = strdup(command->tag);
  return !command->has_tag || process->tag != NULL;
}

static void run(struct request *request, const struct command *command) {
  struct stream *stream = request->stream;
  struct wiring wiring;
  const struct wiring_plan plan = {.terminal = command->terminal,
                                   .has_stdin = command->has_stdin,
                                   .columns = command->columns,
                                   .rows = command->rows,
                                   .account = &command->account};
  if (!wiring_open(&wiring, &plan)) {
    stream_fail_errno(stream, errno, NULL, command->terminal ? "cannot open a terminal" : "cannot open a pipe");
    wiring_close(&wiring);
    return;
  }
  pid_t pid = start_program(stream, command, &wiring);
  if (pid < 0) {
    wiring_close(&wiring);
    return;
  }
  wiring_close_theirs(&wiring);
  struct process *process = process_add(stream->room, pid, command->terminal, &wiring.ours);
  if (process == NULL || !describe(request, command, process)) {
    if (process != NULL) kill(pid, SIGKILL);
    stream_fail(stream, STATUS_RESOURCE_EXHAUSTED, "out of memory for another process");
    return;
  }
  process_attach(process, stream);
}

void open_exec(struct request *request) {
  struct command command = {0};
  const struct process_table *table = request->stream->room;
  if (table->live >= MAX_PROCESSES) {
    stream_fail(request->stream, STATUS_RESOURCE_EXHAUSTED, "%d processes run already", MAX_PROCESSES);
    return;
  }
  if (take_command(request, &command)) run(request, &command);
  command_clear(&command);
}
