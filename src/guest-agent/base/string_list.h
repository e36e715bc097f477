/* String lists: they hold environments, arguments and names. */
#ifndef FIRKIN_STRING_LIST_H
#define FIRKIN_STRING_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct string_list {
  /* Owned, each of them. */
  char **items;
  size_t count;
  size_t capacity;
};

/* Takes ownership of `item`, also on failure. False when memory is short or `item` is NULL. */
bool list_add(struct string_list *list, char *item);
/* Adds `KEY=VALUE`, in place of an earlier item with the same key. */
bool list_set_variable(struct string_list *list, char *item);
void list_clear(struct string_list *list);

#endif
