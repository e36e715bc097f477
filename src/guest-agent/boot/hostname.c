/* The host name, in /etc/hostname and in one line of /etc/hosts, which keeps its place. */
#include "boot/hostname.h"

#include <stdio.h>
#include <string.h>

#include "base/small_file.h"

enum { MAX_HOSTS_BYTES = 65536 };

bool hostname_is_valid(const char *name) {
  size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-");
  return length > 0 && length < HOSTNAME_BYTES && name[length] == '\0';
}

static bool is_our_line(const char *line) {
  static const char address[] = "127.0.1.1";
  size_t length = sizeof address - 1;
  return strncmp(line, address, length) == 0 && (line[length] == ' ' || line[length] == '\t');
}

/* Copies the hosts file with the agent's line replaced, or added at the end. A file that is too large is left alone. */
static bool rewrite_hosts(const char *name) {
  static char before[MAX_HOSTS_BYTES], after[MAX_HOSTS_BYTES + 256];
  size_t length = 0;
  bool placed = false;
  ssize_t size = get_file("/etc/hosts", before, sizeof before);
  if (size < 0) size = snprintf(before, sizeof before, "127.0.0.1 localhost\n::1 localhost\n");
  if ((size_t)size >= sizeof before - 1) return true;
  for (char *line = before; line < before + size;) {
    size_t width = strcspn(line, "\n");
    if (!is_our_line(line)) {
      length += (size_t)snprintf(after + length, sizeof after - length, "%.*s\n", (int)width, line);
    } else if (!placed) {
      length += (size_t)snprintf(after + length, sizeof after - length, "127.0.1.1 %s\n", name);
      placed = true;
    }
    line += width + 1;
  }
  if (!placed) length += (size_t)snprintf(after + length, sizeof after - length, "127.0.1.1 %s\n", name);
  return put_file("/etc/hosts", after, length, 0644);
}

bool hostname_write_files(const char *name) {
  char line[HOSTNAME_BYTES + 1];
  int length = snprintf(line, sizeof line, "%s\n", name);
  return put_file("/etc/hostname", line, (size_t)length, 0644) && rewrite_hosts(name);
}
