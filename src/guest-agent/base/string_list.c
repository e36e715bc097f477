/* String lists. A list owns its strings, which come from malloc. */
#include "base/string_list.h"

#include <stdlib.h>
#include <string.h>

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
