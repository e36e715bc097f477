/* Pseudo terminals, for processes that ask for one. */
#ifndef FIRKIN_TERMINAL_H
#define FIRKIN_TERMINAL_H

#include <stdbool.h>
#include <stdint.h>

#include "accounts/book.h"

/* Opens a pair of that size (0: 80 by 24) and gives the slave to the account. False with errno. */
bool terminal_open(uint64_t columns, uint64_t rows, const struct account *account, int *master, int *slave);

/* False where the kernel sends no SIGWINCH when a terminal has a new size. Known once a terminal was opened. */
bool terminal_tells_size(void);

/* Ignores a size of 0 or above 65,535. */
void terminal_resize(int master, uint64_t columns, uint64_t rows);

#endif
