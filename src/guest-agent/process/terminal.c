/* Pseudo terminals. The slave comes from the master, so that /dev/pts is not needed. */
#include "process/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TTY_GROUP = 5 };

/* The kernel is gVisor, which opens slaves by their names only and tells nobody of a new size. */
static bool is_gvisor;

bool terminal_tells_size(void) { return !is_gvisor; }

void terminal_resize(int master, uint64_t columns, uint64_t rows) {
  if (columns == 0 || rows == 0 || columns > UINT16_MAX || rows > UINT16_MAX) return;
  struct winsize size = {.ws_col = (unsigned short)columns, .ws_row = (unsigned short)rows};
  ioctl(master, TIOCSWINSZ, &size);
}

/* Programs like mesg expect a terminal to belong to its user. A file system that refuses is no reason to fail. */
static void give_slave_to(int slave, const struct account *account) {
  if (fchown(slave, account->uid, TTY_GROUP) == 0) fchmod(slave, 0620);
}

/* The slave of an unlocked master. */
static int open_slave(int master) {
  char path[32];
  unsigned number;
  int slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (slave >= 0 || errno != ENOTTY || ioctl(master, TIOCGPTN, &number) != 0) return slave;
  is_gvisor = true;
  snprintf(path, sizeof path, "/dev/pts/%u", number);
  return open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
}

bool terminal_open(uint64_t columns, uint64_t rows, const struct account *account, int *master, int *slave) {
  int unlocked = 0;
  *slave = -1;
  *master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  if (*master < 0) return false;
  if (ioctl(*master, TIOCSPTLCK, &unlocked) == 0) *slave = open_slave(*master);
  if (*slave < 0) {
    int error = errno;
    close(*master);
    errno = error;
    return false;
  }
  give_slave_to(*slave, account);
  terminal_resize(*master, 80, 24);
  terminal_resize(*master, columns, rows);
  return true;
}
