/* Opening of files whose contents are transferred. */
#ifndef FIRKIN_TRANSFER_H
#define FIRKIN_TRANSFER_H

/* Opens a regular file, or makes one with O_CREAT. -1 with errno: EISDIR for a directory, EINVAL for anything else that is no file. */
int open_regular(const char *path, int flags);

#endif
