/* Settings and the string lists that hold environments and arguments. */
#include "settings.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void read_boot_id(char *out, size_t size) {
  int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
  ssize_t count = fd < 0 ? 0 : read(fd, out, size - 1);
  out[count > 0 ? count : 0] = '\0';
  out[strcspn(out, "\n")] = '\0';
  if (fd >= 0) close(fd);
}

void settings_start(struct settings *settings) {
  *settings = (struct settings){.default_user = "root"};
  read_boot_id(settings->boot_id, sizeof settings->boot_id);
}

void settings_stop(struct settings *settings) { list_clear(&settings->env); }

bool list_add(struct string_list *list, char *item) {
  if (item == NULL) return false;
  if (list->count == list->capacity) {
    size_t capacity = list->capacity == 0 ? 16 : list->capacity * 2;
    char **items = realloc(list->items, capacity * sizeof *items);
    if (items == NULL) {
      free(item);
      return false;
    }
    list->items = items;
    list->capacity = capacity;
  }
  list->items[list->count++] = item;
  return true;
}

bool list_set_variable(struct string_list *list, char *item) {
  if (item == NULL) return false;
  size_t key = strcspn(item, "=") + 1;
  for (size_t i = 0; i < list->count; i++) {
    if (strncmp(list->items[i], item, key) != 0) continue;
    free(list->items[i]);
    list->items[i] = item;
    return true;
  }
  return list_add(list, item);
}

void list_clear(struct string_list *list) {
  for (size_t i = 0; i < list->count; i++) free(list->items[i]);
  free(list->items);
  *list = (struct string_list){0};
}
