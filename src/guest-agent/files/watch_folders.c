/* The table of watched folders, sorted by watch descriptor. */
#include "files/watch_folders.h"

#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>

/* The index of the descriptor, or the index where it must be inserted. */
static size_t place_of(const struct folder_table *table, int wd) {
  size_t low = 0, high = table->count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (table->items[middle].wd < wd) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

struct folder *folders_find(const struct folder_table *table, int wd) {
  size_t at = place_of(table, wd);
  return at < table->count && table->items[at].wd == wd ? &table->items[at] : NULL;
}

static bool make_room(struct folder_table *table) {
  if (table->count < table->capacity) return true;
  if (table->count >= MAX_WATCHED_FOLDERS) return false;
  size_t capacity = table->capacity == 0 ? 16 : table->capacity * 2;
  struct folder *items = realloc(table->items, capacity * sizeof *items);
  if (items == NULL) return false;
  table->items = items;
  table->capacity = capacity;
  return true;
}

struct folder *folders_add(struct folder_table *table, int wd, const char *below) {
  char *copy = strdup(below);
  struct folder *known = folders_find(table, wd);
  if (copy == NULL || (known == NULL && !make_room(table))) {
    free(copy);
    return NULL;
  }
  if (known != NULL) {
    free(known->below);
    known->below = copy;
    return known;
  }
  size_t at = place_of(table, wd);
  memmove(table->items + at + 1, table->items + at, (table->count - at) * sizeof *table->items);
  table->items[at] = (struct folder){.wd = wd, .below = copy};
  table->count++;
  return &table->items[at];
}

static void folder_clear(struct folder *folder) {
  free(folder->below);
  list_clear(&folder->found);
}

void folders_drop(struct folder_table *table, int wd) {
  size_t at = place_of(table, wd);
  if (at >= table->count || table->items[at].wd != wd) return;
  folder_clear(&table->items[at]);
  table->count--;
  memmove(table->items + at, table->items + at + 1, (table->count - at) * sizeof *table->items);
}

static bool is_at_or_below(const char *path, const char *folder) {
  size_t length = strlen(folder);
  return strncmp(path, folder, length) == 0 && (path[length] == '\0' || path[length] == '/');
}

void folders_drop_below(struct folder_table *table, int inotify_fd, const char *below) {
  size_t kept = 0;
  for (size_t i = 0; i < table->count; i++) {
    if (is_at_or_below(table->items[i].below, below)) {
      inotify_rm_watch(inotify_fd, table->items[i].wd);
      folder_clear(&table->items[i]);
    } else {
      table->items[kept++] = table->items[i];
    }
  }
  table->count = kept;
}

void folders_clear(struct folder_table *table) {
  for (size_t i = 0; i < table->count; i++) folder_clear(&table->items[i]);
  free(table->items);
  *table = (struct folder_table){0};
}

bool folder_forget_found(struct folder *folder, const char *name) {
  for (size_t i = 0; i < folder->found.count; i++) {
    if (strcmp(folder->found.items[i], name) != 0) continue;
    free(folder->found.items[i]);
    folder->found.items[i] = folder->found.items[--folder->found.count];
    return true;
  }
  return false;
}

void folders_forget_found(struct folder_table *table) {
  for (size_t i = 0; i < table->count; i++) list_clear(&table->items[i].found);
}
