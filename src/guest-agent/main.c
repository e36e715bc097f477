/* The program: chooses the mode of the agent by its arguments, and lets it run. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "boot/boot.h"
#include "boot/console.h"
#include "boot/kernel_options.h"

static struct agent agent;

static int usage(void) {
  fprintf(stderr,
          "usage: firkin-agent (--fd N | --connect PATH | --vsock PORT) [--privileged-setup] [--keep PROGRAM]\n"
          "       firkin-agent --version\n"
          "       firkin-agent --gvisor [DNS]\n"
          "Without arguments, as process 1 of an initramfs, it boots the machine first.\n");
  return 2;
}

/* Opens 0, 1 and 2 if they are closed, so that no other descriptor ever gets these numbers. */
static void fill_standard_descriptors(void) {
  int fd;
  do {
    fd = open("/dev/null", O_RDWR);
  } while (fd >= 0 && fd <= 2);
  if (fd >= 0) close(fd);
}

/* A number from 0 to `max`, or -1. */
static long parse_number(const char *text, long max) {
  char *end;
  long number = strtol(text, &end, 10);
  return end == text || *end != '\0' || number < 0 || number > max ? -1 : number;
}

/* Opens the source of the link that the arguments name. False with a message on stderr. */
static bool open_source(const char *kind, const char *value) {
  struct link_source *source = &agent.link.source;
  bool good = true;
  if (strcmp(kind, "--fd") == 0) {
    good = source_use_fd(source, (int)parse_number(value, 65535));
  } else if (strcmp(kind, "--vsock") == 0) {
    good = source_use_vsock(source, (unsigned)parse_number(value, UINT32_MAX - 1L));
  } else {
    source_use_path(source, value);
  }
  if (!good) perror(kind);
  return good;
}

static void __attribute__((noreturn)) serve_as_init(void) {
  boot();
  if (!agent_start(&agent, (struct options){.is_init = true, .privileged_setup = true})) say("cannot start");
  char vsock[16];
  if (kernel_option("firkin.vsock", vsock, sizeof vsock)) {
    if (!open_source("--vsock", vsock)) say("cannot listen on vsock port %s", vsock);
  } else {
    source_use_port(&agent.link.source);
  }
  say("version %s serves", AGENT_VERSION);
  for (;;) agent_turn(&agent, -1);
}

/* As the first process of a gVisor sandbox, whose link is standard input and output. */
static int serve_in_gvisor(const char *dns) {
  boot_gvisor(dns);
  if (!agent_start(&agent, (struct options){.is_init = true, .privileged_setup = true, .is_gvisor = true})) return 1;
  if (!source_use_standard(&agent.link.source)) return 1;
  say("version %s serves", AGENT_VERSION);
  while (!agent_is_over(&agent)) agent_turn(&agent, -1);
  return 0;
}

static int serve_as_process(const char *kind, const char *value, struct options options) {
  fill_standard_descriptors();
  if (!agent_start(&agent, options)) return 1;
  if (!open_source(kind, value)) return 1;
  while (!agent_is_over(&agent)) agent_turn(&agent, -1);
  agent_stop(&agent);
  return 0;
}

int main(int argc, char **argv) {
  bool has_options = argc > 1 && strncmp(argv[1], "--", 2) == 0;
  if (getpid() == 1 && !has_options) serve_as_init();
  if (argc == 2 && strcmp(argv[1], "--version") == 0) {
    puts(AGENT_VERSION);
    return 0;
  }
  if (argc >= 2 && argc <= 3 && strcmp(argv[1], "--gvisor") == 0) return serve_in_gvisor(argv[2]);
  const char *kind = NULL, *value = NULL;
  struct options options = {0};
  for (int i = 1; i < argc; i++) {
    bool is_source =
        strcmp(argv[i], "--fd") == 0 || strcmp(argv[i], "--connect") == 0 || strcmp(argv[i], "--vsock") == 0;
    if (strcmp(argv[i], "--privileged-setup") == 0) {
      options.privileged_setup = true;
    } else if (strcmp(argv[i], "--keep") == 0 && i + 1 < argc) {
      options.keep = argv[++i];
    } else if (is_source && kind == NULL && i + 1 < argc) {
      kind = argv[i];
      value = argv[++i];
    } else {
      return usage();
    }
  }
  bool is_number = kind != NULL && strcmp(kind, "--connect") != 0;
  if (kind == NULL || (is_number && parse_number(value, UINT32_MAX - 1L) < 0)) return usage();
  return serve_as_process(kind, value, options);
}
