/*
 * The variables that a login gets, read as pam_env reads them: `KEY=VALUE` lines, with or without `export` in front and
 * quotes around the value, with or without a comment behind. The file belongs to the guest, so malformed lines are
 * skipped.
 */
#include "process/login.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/small_file.h"

enum { MAX_FILE_BYTES = 65536, MAX_LOGIN_VARIABLES = 1024 };

static const char path[] = "/etc/environment";

static bool is_name(const char *text, size_t length) {
  if (length == 0 || isdigit((unsigned char)text[0])) return false;
  for (size_t i = 0; i < length; i++) {
    if (!isalnum((unsigned char)text[i]) && text[i] != '_') return false;
  }
  return true;
}

/* Takes quotes off the value in place: one at its start, and one of the same kind at its end. */
static void unquote(char *value) {
  size_t length = strlen(value);
  if (value[0] != '"' && value[0] != '\'') return;
  if (length > 1 && value[length - 1] == value[0]) value[--length] = '\0';
  memmove(value, value + 1, length);
}

/* The line as `KEY=VALUE`, in place; NULL when it is no variable. */
static char *to_variable(char *line) {
  line += strspn(line, " \t");
  if (strncmp(line, "export ", 7) == 0) line += 7 + strspn(line + 7, " \t");
  char *equals = strchr(line, '=');
  if (equals == NULL || !is_name(line, (size_t)(equals - line))) return NULL;
  char *comment = strstr(equals, " #");
  if (comment != NULL) *comment = '\0';
  for (size_t length = strlen(line); isspace((unsigned char)line[length - 1]);) line[--length] = '\0';
  unquote(equals + 1);
  return line;
}

bool add_login_variables(struct string_list *environment) {
  static char text[MAX_FILE_BYTES];
  char *rest = text;
  unsigned count = 0;
  if (get_file(path, text, sizeof text) < 0) return true;
  for (char *line; (line = strsep(&rest, "\n")) != NULL && count < MAX_LOGIN_VARIABLES;) {
    const char *variable = to_variable(line);
    if (variable != NULL) count++;
    if (variable != NULL && !list_set_variable(environment, strdup(variable))) return false;
  }
  return true;
}
