/* What SETUP decides about everything that comes after it. */
#ifndef FIRKIN_SETTINGS_H
#define FIRKIN_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>

#include "users.h"

enum { SETTING_PATH_BYTES = 4096, BOOT_ID_BYTES = 64 };

/* `KEY=VALUE` strings, owned. */
struct string_list {
  char **items;
  size_t count;
  size_t capacity;
};

struct settings {
  char boot_id[BOOT_ID_BYTES];
  char default_user[ACCOUNT_NAME_BYTES];
  char default_cwd[SETTING_PATH_BYTES];
  struct string_list env;
};

void settings_start(struct settings *settings);
void settings_stop(struct settings *settings);

/* Takes over `item`, also when it fails for want of memory or because `item` is NULL. */
bool list_add(struct string_list *list, char *item);
/* Adds `KEY=VALUE`, in place of an earlier one with the same key. */
bool list_set_variable(struct string_list *list, char *item);
void list_clear(struct string_list *list);

#endif
