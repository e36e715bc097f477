/* The options, from /proc/cmdline. Quotes are not understood, because no value that the agent reads has blanks. */
#include "boot/kernel_options.h"

#include <string.h>

#include "base/small_file.h"

bool kernel_option(const char *name, char *out, size_t size) {
  char line[4096];
  char *rest = line;
  bool found = false;
  size_t length = strlen(name);
  if (get_file("/proc/cmdline", line, sizeof line) < 0) return false;
  for (char *word; (word = strsep(&rest, " \n")) != NULL;) {
    bool is_ours = strncmp(word, name, length) == 0 && word[length] == '=';
    if (!is_ours || strlen(word + length + 1) >= size) continue;
    strcpy(out, word + length + 1);
    found = true;
  }
  return found;
}
