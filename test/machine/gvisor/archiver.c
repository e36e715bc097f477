/* `archiver pack|unpack FROM TO`: what a machine's launcher does with its disk, for tests. */
#define _GNU_SOURCE
#include "../../../src/machine/gvisor/layer_archive.h"

int main(int count, char **arguments) {
  if (count != 4) return 2;
  int from = open(arguments[2], O_RDONLY), to = open(arguments[3], O_RDWR | O_CREAT | O_TRUNC, 0600);
  if (from < 0 || to < 0) return 2;
  bool packs = strcmp(arguments[1], "pack") == 0;
  const char *problem = packs ? write_archive(from, to, "disk.ext4") : read_archive(from, to, "disk.ext4");
  if (problem) puts(problem);
  return problem != NULL;
}
