/*
 * The fuzz driver that needs a compiler and nothing else. Usage: firkin-fuzz ROUNDS SEED [FILE...]. Exits 77 where it
 * cannot isolate itself.
 */
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fuzz/make.h"
#include "fuzz/rounds.h"

static int run(const char *folder, unsigned long rounds) {
  static struct fuzz_input input;
  bool has_proc;
  if (!fuzz_isolate(folder, &has_proc)) _exit(FUZZ_SKIPPED);
  fuzz_start();
  for (unsigned long round = 0; round < rounds; round++) {
    input.length = 0;
    fuzz_add_hello(&input, round);
    fuzz_make(&input);
    fuzz_round(&input, round);
  }
  fuzz_stop();
  fuzz_unload();
  printf("firkin-fuzz: %lu rounds\n", rounds);
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
  fuzz_seed(strtoul(argv[2], NULL, 10));
  for (int i = 3; i < argc; i++) fuzz_load(argv[i]);
  char folder[] = "/tmp/firkin-fuzz-XXXXXX";
  if (mkdtemp(folder) == NULL) return 1;
  pid_t child = fork();
  if (child == 0) exit(run(folder, rounds));
  int status = 1;
  waitpid(child, &status, 0);
  fuzz_unload();
  if (!WIFEXITED(status) || (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != FUZZ_SKIPPED)) {
    fprintf(stderr, "firkin-fuzz: the input is in %s/failed-input\n", folder);
    return 1;
  }
  nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
  return WEXITSTATUS(status);
}
