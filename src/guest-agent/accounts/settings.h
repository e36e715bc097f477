/* The settings: SETUP's decisions about every request that comes after it. */
#ifndef FIRKIN_SETTINGS_H
#define FIRKIN_SETTINGS_H

#include "accounts/book.h"
#include "base/string_list.h"

enum { SETTING_PATH_BYTES = 4096 };

struct settings {
  char default_user[ACCOUNT_NAME_BYTES];
  /* Empty: the user's home. */
  char default_cwd[SETTING_PATH_BYTES];
  /* The environment that every process starts with. */
  struct string_list env;
};

void settings_start(struct settings *settings);
void settings_stop(struct settings *settings);

#endif
