/* The operations: each number with the function that opens it and the state of its room. */
#include "operations.h"

#include "files/compose.h"
#include "files/one_step.h"
#include "files/remove.h"
#include "files/transfer.h"
#include "files/walk.h"
#include "files/watch.h"
#include "machine/dial.h"
#include "machine/metrics.h"
#include "machine/setup.h"
#include "machine/shutdown.h"
#include "process/ask.h"
#include "process/exec.h"
#include "process/helpers.h"

static void open_ping(struct request *request) { stream_finish(request->stream, STATUS_OK); }

static bool admit(void *context, struct stream *stream, uint16_t operation) {
  struct machine *machine = context;
  if (machine->shutdown.under_way && operation != OP_PING) {
    stream_fail(stream, STATUS_FAILED_PRECONDITION, "the machine is shutting down");
    return false;
  }
  book_expire(&machine->accounts->book);
  return true;
}

void operations_start(struct operation_table *table, struct file_room *files, struct machine *machine) {
  struct process_table *processes = machine->processes;
  *table = (struct operation_table){
      .admit = admit,
      .context = machine,
      .slots =
          {
              [OP_EXEC] = {open_exec, processes},
              [OP_ATTACH] = {open_attach, processes},
              [OP_LIST] = {open_list, processes},
              [OP_SIGNAL] = {open_signal, processes},
              [OP_READ] = {open_read, files},
              [OP_WRITE] = {open_write, files},
              [OP_STAT] = {open_stat, files},
              [OP_LIST_DIRECTORY] = {open_list_directory, files},
              [OP_MAKE_DIRECTORY] = {open_make_directory, files},
              [OP_MOVE] = {open_move, files},
              [OP_REMOVE] = {open_remove, files},
              [OP_WATCH] = {open_watch, files},
              [OP_DIAL] = {open_dial, machine},
              [OP_SETUP] = {open_setup, machine},
              [OP_METRICS] = {open_metrics, NULL},
              [OP_PING] = {open_ping, NULL},
              [OP_SYNC] = {open_sync, &processes->helpers},
              [OP_SHUTDOWN] = {open_shutdown, machine},
              [OP_COMPOSE] = {open_compose, files},
          },
  };
}
