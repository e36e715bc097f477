/* The place of a request: the account that it names and the path as that account means it. */
#ifndef FIRKIN_PLACE_H
#define FIRKIN_PLACE_H

#include <stdbool.h>
#include <stdint.h>

#include "accounts/accounts.h"
#include "accounts/paths.h"
#include "link/request.h"

struct place {
  struct account account;
  /* Absolute and clean. */
  char path[PATH_BYTES];
};

/* The account that USER names, or the default one. Otherwise ends the stream and returns false. */
bool request_account(struct request *request, struct accounts *accounts, struct account *account);

/* USER and the path in `tag`. Otherwise ends the stream and returns false. */
bool request_place(struct request *request, struct accounts *accounts, uint8_t tag, struct place *place);

/* A path as that account means it. Otherwise ends the stream and returns false. */
bool request_resolve(struct stream *stream, const struct accounts *accounts, const struct account *account,
                     const char *asked, char out[PATH_BYTES]);

#endif
