/* The watched folders of one WATCH, by inotify's watch descriptors. */
#ifndef FIRKIN_WATCH_FOLDERS_H
#define FIRKIN_WATCH_FOLDERS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/string_list.h"

enum { MAX_WATCHED_FOLDERS = 65536 };

struct folder {
  int wd;
  /* Path below the root, owned; the root's is empty. */
  char *below;
  /* Names that the scan of the folder reported. inotify has an event for them as well, which is dropped. */
  struct string_list found;
};

struct folder_table {
  /* In the order of their watch descriptors. */
  struct folder *items;
  size_t count;
  size_t capacity;
};

/* Adds a folder, or renames the folder with that descriptor. NULL when there are too many or memory is short. */
struct folder *folders_add(struct folder_table *table, int wd, const char *below);
struct folder *folders_find(const struct folder_table *table, int wd);
void folders_drop(struct folder_table *table, int wd);
/* Ends the watches on that folder and on all folders below it. */
void folders_drop_below(struct folder_table *table, int inotify_fd, const char *below);
void folders_clear(struct folder_table *table);

/* True when a scan has reported the name. From then on the name counts as not reported. */
bool folder_forget_found(struct folder *folder, const char *name);
void folders_forget_found(struct folder_table *table);

#endif
