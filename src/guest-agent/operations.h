/* The operations that an OPEN can ask for. Each ends the stream or gives it work. */
#ifndef FIRKIN_OPERATIONS_H
#define FIRKIN_OPERATIONS_H

#include <stdint.h>

#include "request.h"
#include "streams.h"

void operation_open(struct stream *stream, uint16_t operation, struct slice fields);

/* process_exec.c */
void open_exec(struct request *request);
/* process_ask.c */
void open_attach(struct request *request);
void open_list(struct request *request);
void open_signal(struct request *request);
/* transfer.c */
void open_read(struct request *request);
void open_write(struct request *request);
void open_compose(struct request *request);
/* files.c */
void open_stat(struct request *request);
void open_make_directory(struct request *request);
void open_move(struct request *request);
/* walk.c */
void open_list_directory(struct request *request);
/* remove.c */
void open_remove(struct request *request);
/* watch.c */
void open_watch(struct request *request);
/* dial.c */
void open_dial(struct request *request);
/* setup.c */
void open_setup(struct request *request);
/* metrics.c */
void open_metrics(struct request *request);
/* shutdown.c */
void open_sync(struct request *request);
void open_shutdown(struct request *request);

#endif
