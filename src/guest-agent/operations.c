/* The table of operations. */
#include "operations.h"

#include <stddef.h>

#include "agent.h"

static void open_ping(struct request *request) { stream_finish(request->stream, STATUS_OK); }

static void (*const operations[])(struct request *) = {
    [OP_EXEC] = open_exec,
    [OP_ATTACH] = open_attach,
    [OP_LIST] = open_list,
    [OP_SIGNAL] = open_signal,
    [OP_READ] = open_read,
    [OP_WRITE] = open_write,
    [OP_STAT] = open_stat,
    [OP_LIST_DIRECTORY] = open_list_directory,
    [OP_MAKE_DIRECTORY] = open_make_directory,
    [OP_MOVE] = open_move,
    [OP_REMOVE] = open_remove,
    [OP_WATCH] = open_watch,
    [OP_DIAL] = open_dial,
    [OP_SETUP] = open_setup,
    [OP_METRICS] = open_metrics,
    [OP_PING] = open_ping,
    [OP_SYNC] = open_sync,
    [OP_SHUTDOWN] = open_shutdown,
    [OP_COMPOSE] = open_compose,
};

void operation_open(struct stream *stream, uint16_t operation, struct slice fields) {
  struct request request = {.stream = stream, .fields = fields};
  if (operation >= sizeof operations / sizeof operations[0] || operations[operation] == NULL) {
    stream_fail(stream, STATUS_UNSUPPORTED, "operation %u is not known", operation);
    return;
  }
  if (!fields_check(fields)) {
    stream_fail(stream, STATUS_INVALID_ARGUMENT, "the fields of the request are cut short");
    return;
  }
  if (stream->agent->shutdown.under_way && operation != OP_PING) {
    stream_fail(stream, STATUS_FAILED_PRECONDITION, "the machine is shutting down");
    return;
  }
  accounts_expire(&stream->agent->accounts);
  operations[operation](&request);
}
