/* The folders that one WATCH has inotify watches on. */
#ifndef FIRKIN_WATCH_FOLDERS_H
#define FIRKIN_WATCH_FOLDERS_H

#include <stdbool.h>
#include <stddef.h>

#include "settings.h"

enum { MAX_WATCHED_FOLDERS = 65536 };

struct folder {
  int wd;
  /* Path below the root, owned; the root's is empty. */
  char *below;
  /* Names that were reported when the folder was scanned: the event that inotify has for them as well is dropped. */
  struct string_list found;
};

struct folder_table {
  /* In the order of their watch descriptors, which only ever grow. */
  struct folder *items;
  size_t count;
  size_t capacity;
};

/* Adds a folder, or renames the one with that descriptor. NULL when there are too many or memory is short. */
struct folder *folders_add(struct folder_table *table, int wd, const char *below);
struct folder *folders_find(const struct folder_table *table, int wd);
void folders_drop(struct folder_table *table, int wd);
/* Ends the watches on that folder and all below it. */
void folders_drop_below(struct folder_table *table, int inotify_fd, const char *below);
void folders_clear(struct folder_table *table);

/* True when the name was reported by a scan; it no longer counts as that. */
bool folder_forget_found(struct folder *folder, const char *name);
void folders_forget_found(struct folder_table *table);

#endif
