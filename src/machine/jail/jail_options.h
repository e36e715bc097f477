/* The options of the jail, which jail.c describes. */
#ifndef FIRKIN_JAIL_OPTIONS_H
#define FIRKIN_JAIL_OPTIONS_H

#include "launcher.h"

enum { MAX_PATHS = 64, FIRST_DESCRIPTOR = 3, MAX_ENVIRONMENT = 16, MAX_CGROUPS = 4 };

enum bind_kind { READ_ONLY, READ_WRITE, DEVICE, EMPTY };

struct binding {
  enum bind_kind kind;
  const char *path;
};

struct options {
  const char *engine;
  const char *mount;
  struct binding bindings[MAX_PATHS];
  size_t binding_count;
  const char *cgroups[MAX_CGROUPS];
  size_t cgroup_count;
  char *environment[MAX_ENVIRONMENT + 1];
  size_t environment_count;
  struct identity who;
  bool makes_user, has_empty_network, has_proc, has_host_proc;
  const char *calls;
  long kept, file_bytes, files, processes, status, pair_bytes;
  const char *oom;
  char **command;
};

static void add_binding(struct options *options, enum bind_kind kind, const char *path) {
  errno = E2BIG;
  if (options->binding_count == MAX_PATHS) fail("too many paths");
  options->bindings[options->binding_count++] = (struct binding){kind, path};
}

static void parse_option(struct options *options, char *argument) {
  const char *value;
  if ((value = value_of(argument, "engine")))
    options->engine = value;
  else if ((value = value_of(argument, "mount")))
    options->mount = value;
  else if ((value = value_of(argument, "ro")))
    add_binding(options, READ_ONLY, value);
  else if ((value = value_of(argument, "rw")))
    add_binding(options, READ_WRITE, value);
  else if ((value = value_of(argument, "device")))
    add_binding(options, DEVICE, value);
  else if ((value = value_of(argument, "empty")))
    add_binding(options, EMPTY, value);
  else if ((value = value_of(argument, "uid")))
    options->who.uid = number_of(value);
  else if ((value = value_of(argument, "gid")))
    options->who.gid = number_of(value);
  else if ((value = value_of(argument, "group")))
    options->who.group = number_of(value);
  else if ((value = value_of(argument, "keep")))
    options->kept = number_of(value);
  else if ((value = value_of(argument, "file-bytes")))
    options->file_bytes = number_of(value);
  else if ((value = value_of(argument, "files")))
    options->files = number_of(value);
  else if ((value = value_of(argument, "processes")))
    options->processes = number_of(value);
  else if ((value = value_of(argument, "pair")))
    options->pair_bytes = number_of(value);
  else if ((value = value_of(argument, "status")))
    options->status = number_of(value);
  else if ((value = value_of(argument, "oom")))
    options->oom = value;
  else if (strcmp(argument, "user") == 0)
    options->makes_user = true;
  else if (strcmp(argument, "empty-network") == 0)
    options->has_empty_network = true;
  else if (strcmp(argument, "proc") == 0)
    options->has_proc = true;
  else if (strcmp(argument, "host-proc") == 0)
    options->has_host_proc = true;
  else if ((value = value_of(argument, "calls")))
    options->calls = value;
  else if ((value = value_of(argument, "env")) && options->environment_count < MAX_ENVIRONMENT)
    options->environment[options->environment_count++] = argument + strlen("env=");
  else if ((value = value_of(argument, "cgroup")) && options->cgroup_count < MAX_CGROUPS)
    options->cgroups[options->cgroup_count++] = value;
  else {
    errno = EINVAL;
    fail("option %s", argument);
  }
}

static struct options parse(char **arguments) {
  struct options options = {.who = {-1, -1, -1}, .file_bytes = -1, .files = -1, .processes = -1, .status = -1};
  char **argument = arguments;
  for (; *argument && strcmp(*argument, "--") != 0; argument++) parse_option(&options, *argument);
  errno = EINVAL;
  if (!*argument || !argument[1]) fail("no program after --");
  options.command = argument + 1;
  return options;
}

#endif
