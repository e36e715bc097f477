/* Places, resolved from the fields USER and PATH of a request. */
#include "accounts/place.h"

bool request_account(struct request *request, struct accounts *accounts, struct account *account) {
  char name[ACCOUNT_NAME_BYTES];
  request_text(request, TAG_USER, name, sizeof name);
  if (request_refused(request)) return false;
  const char *wanted = name[0] != '\0' ? name : accounts->settings.default_user;
  if (book_find(&accounts->book, wanted, account)) return true;
  stream_fail(request->stream, STATUS_UNAUTHENTICATED, "invalid username: '%s'", wanted);
  return false;
}

bool request_resolve(struct stream *stream, const struct accounts *accounts, const struct account *account,
                     const char *asked, char out[PATH_BYTES]) {
  const char *problem = path_resolve(account->home, accounts->settings.default_cwd, asked, out);
  if (problem == NULL) return true;
  stream_fail(stream, STATUS_INVALID_ARGUMENT, "%s", problem);
  return false;
}

bool request_place(struct request *request, struct accounts *accounts, uint8_t tag, struct place *place) {
  char asked[PATH_BYTES];
  request_text(request, tag, asked, sizeof asked);
  if (request_refused(request) || !request_account(request, accounts, &place->account)) return false;
  return request_resolve(request->stream, accounts, &place->account, asked, place->path);
}
