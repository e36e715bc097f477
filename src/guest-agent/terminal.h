/* Pseudo terminals. */
#ifndef FIRKIN_TERMINAL_H
#define FIRKIN_TERMINAL_H

#include <stdbool.h>
#include <stdint.h>

#include "users.h"

/* Opens a pair of that size (0: 80 by 24) whose slave belongs to the account. False with errno. */
bool terminal_open(uint64_t columns, uint64_t rows, const struct account *account, int *master, int *slave);

/* Sizes that are no size are ignored. */
void terminal_resize(int master, uint64_t columns, uint64_t rows);

#endif
