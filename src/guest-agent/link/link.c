/* The link. It judges input frame by frame; the first wrong thing makes the agent lost until the next HELLO. */
#include "link/link.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/small_file.h"
#include "link/fields.h"
#include "link/frames.h"

/* Header and magic of a HELLO: a lost agent looks for these bytes. */
static const uint8_t hello_start[HEADER_BYTES + MAGIC_BYTES] = {
    FRAME_HELLO, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, HELLO_BYTES, 'f', 'i', 'r', 'k', 'i', 'n', 0, 1,
};

static void read_boot_id(char out[BOOT_ID_BYTES]) {
  if (get_file("/proc/sys/kernel/random/boot_id", out, BOOT_ID_BYTES) < 0) out[0] = '\0';
  out[strcspn(out, "\n")] = '\0';
}

void link_start(struct link *link, struct loop *loop, struct output *output, struct dispatch *dispatch) {
  link->loop = loop;
  link->output = output;
  link->dispatch = dispatch;
  link->open = false;
  link->has_sink = false;
  read_boot_id(link->boot_id);
  link_reset(link);
}

void link_reset(struct link *link) {
  link->lost = true;
  link->paused = false;
  link->input_length = 0;
  output_clear(link->output);
  dispatch_forget(link->dispatch);
}

static void link_notice(struct event_source *source, uint32_t events) {
  struct link *link = (struct link *)((char *)source - offsetof(struct link, source));
  (void)events;
  link->readable = true;
  link->writable = true;
}

bool link_attach(struct link *link, int fd) {
  link_detach(link);
  if (!loop_add(link->loop, &link->source, fd, link_notice)) return false;
  link->open = true;
  link->readable = true;
  link->writable = true;
  return true;
}

static void sink_notice(struct event_source *sink, uint32_t events) {
  struct link *link = (struct link *)((char *)sink - offsetof(struct link, sink));
  (void)events;
  link->writable = true;
}

bool link_attach_pair(struct link *link, int in, int out) {
  if (!link_attach(link, in)) return false;
  link->has_sink = loop_add(link->loop, &link->sink, out, sink_notice);
  return link->has_sink;
}

void link_detach(struct link *link) {
  if (link->open) loop_remove(link->loop, &link->source);
  if (link->has_sink) loop_remove(link->loop, &link->sink);
  link->has_sink = false;
  link->open = false;
  link->readable = false;
  link->writable = false;
  link_reset(link);
}

static void send_welcome(struct link *link, const uint8_t *nonce) {
  struct writer writer = {.bytes = output_frame_room(link->output) + HEADER_BYTES, .capacity = MAX_PAYLOAD};
  memcpy(writer.bytes, nonce, NONCE_BYTES);
  writer.length = NONCE_BYTES;
  put_int(&writer, TAG_VERSION, PROTOCOL_VERSION);
  put_string(&writer, TAG_AGENT_VERSION, AGENT_VERSION);
  put_string(&writer, TAG_BOOT_ID, link->boot_id);
  output_add_frame(link->output, FRAME_WELCOME, 0, 0, writer.length);
}

/* False when the frame is no good HELLO. */
static bool take_hello(struct link *link, const struct frame *frame) {
  if (frame->length != HELLO_BYTES || frame->stream != 0) return false;
  if (memcmp(frame->payload, hello_start + HEADER_BYTES, MAGIC_BYTES) != 0) return false;
  dispatch_forget(link->dispatch);
  output_clear(link->output);
  link->lost = false;
  send_welcome(link, frame->payload + MAGIC_BYTES + 2);
  return true;
}

/* Returns how many bytes cannot be the beginning of a HELLO and so can be thrown away. */
static size_t seek_hello(const uint8_t *bytes, size_t count) {
  const uint8_t *found = memmem(bytes, count, hello_start, sizeof hello_start);
  if (found != NULL) return (size_t)(found - bytes);
  return count < sizeof hello_start ? 0 : count - (sizeof hello_start - 1);
}

/* Takes one frame or pad byte. Returns the number of bytes taken; 0 when more bytes or room are needed. */
static size_t take_one(struct link *link, const uint8_t *bytes, size_t count) {
  struct frame frame;
  enum verdict verdict = frame_judge(bytes, count, &frame);
  if (verdict == VERDICT_PAD) return 1;
  if (verdict == VERDICT_INCOMPLETE) return 0;
  if (verdict == VERDICT_FRAME && frame.type == FRAME_HELLO && take_hello(link, &frame)) return frame_size(&frame);
  if (verdict == VERDICT_FRAME && frame.type != FRAME_HELLO && !link->lost) {
    link->paused = frame.type == FRAME_OPEN && !dispatch_has_room(link->dispatch);
    if (link->paused) return 0;
    if (dispatch_frame(link->dispatch, &frame)) return frame_size(&frame);
  }
  link->lost = true;
  return 1;
}

static void process_input(struct link *link) {
  size_t done = 0;
  while (done < link->input_length) {
    const uint8_t *bytes = link->input + done;
    size_t count = link->input_length - done;
    size_t skipped = link->lost ? seek_hello(bytes, count) : 0;
    done += skipped;
    if (link->lost && count - skipped < sizeof hello_start) break;
    size_t taken = take_one(link, bytes + skipped, count - skipped);
    if (taken == 0) break;
    done += taken;
  }
  link->input_length -= done;
  memmove(link->input, link->input + done, link->input_length);
}

enum link_news link_receive(struct link *link) {
  if (link->paused) process_input(link);
  if (!link->open || !link->readable || link->paused) return LINK_NOT_READ;
  size_t room = LINK_INPUT_BYTES - link->input_length;
  ssize_t count = read(link->source.fd, link->input + link->input_length, room);
  if (count > 0) {
    link->input_length += (size_t)count;
    process_input(link);
    return LINK_HEARD;
  }
  if (count < 0 && errno == EINTR) return LINK_NOT_READ;
  link->readable = false;
  if (count == 0) return LINK_ENDED;
  return errno == EAGAIN ? LINK_HEARD : LINK_BROKEN;
}

/* The end of a host is noticed by reading, so a failure to write only says that nothing more can be written. */
void link_send(struct link *link) {
  if (link->open && link->writable && link->output->length > 0) {
    link->writable = output_write(link->output, link->has_sink ? link->sink.fd : link->source.fd);
  }
}

bool link_is_busy(const struct link *link) {
  return link->open && ((link->readable && !link->paused) || (link->writable && link->output->length > 0));
}
