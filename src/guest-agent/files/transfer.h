/* READ and WRITE: the contents of files as streams. */
#ifndef FIRKIN_TRANSFER_H
#define FIRKIN_TRANSFER_H

#include "link/request.h"

void open_read(struct request *request);
void open_write(struct request *request);

/*
 * Opens a regular file, or makes one with O_CREAT. -1 with errno: EISDIR for a folder, EINVAL for anything else that is
 * no file.
 */
int open_regular(const char *path, int flags);

#endif
