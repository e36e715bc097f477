/* Attributes: the extended attributes that clients set with a file. */
#ifndef FIRKIN_ATTRIBUTES_H
#define FIRKIN_ATTRIBUTES_H

#include <stdbool.h>

#include "link/fields.h"

/* Makes the XATTR groups in `fields` the file's whole set of `user.e2b.` attributes. False with errno. */
bool attributes_replace(int fd, struct slice fields);

#endif
