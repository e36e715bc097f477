/* The link. What comes in is judged frame by frame; the first thing that is wrong makes the agent lost until a HELLO. */
#include "link.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "bytes.h"
#include "dispatch.h"

/* Header and magic: what a lost agent looks for. */
static const uint8_t hello_start[HEADER_BYTES + MAGIC_BYTES] = {
    FRAME_HELLO, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, HELLO_BYTES, 'f', 'i', 'r', 'k', 'i', 'n', 0, 1,
};

void link_start(struct link *link, struct agent *agent) {
  link->agent = agent;
  link->open = false;
  link_reset(link);
}

void link_reset(struct link *link) {
  link->lost = true;
  link->paused = false;
  link->input_length = 0;
  link->output_head = 0;
  link->output_length = 0;
  dispatch_forget(link->agent);
}

static void link_notice(struct source *source, uint32_t events) {
  struct link *link = (struct link *)((char *)source - offsetof(struct link, source));
  (void)events;
  link->readable = true;
  link->writable = true;
}

bool link_attach(struct link *link, int fd) {
  link_detach(link);
  if (!loop_add(&link->agent->loop, &link->source, fd, link_notice)) return false;
  link->open = true;
  link->readable = true;
  link->writable = true;
  return true;
}

void link_detach(struct link *link) {
  if (link->open) loop_remove(&link->agent->loop, &link->source);
  link->open = false;
  link->readable = false;
  link->writable = false;
  link_reset(link);
}

static void send_welcome(struct link *link, const uint8_t *nonce) {
  struct writer writer = {.bytes = link_frame_room(link) + HEADER_BYTES, .capacity = MAX_PAYLOAD};
  memcpy(writer.bytes, nonce, NONCE_BYTES);
  writer.length = NONCE_BYTES;
  put_int(&writer, TAG_VERSION, PROTOCOL_VERSION);
  put_string(&writer, TAG_AGENT_VERSION, AGENT_VERSION);
  put_string(&writer, TAG_BOOT_ID, link->agent->settings.boot_id);
  link_send_frame(link, FRAME_WELCOME, 0, 0, writer.length);
}

/* False when it is no good HELLO. */
static bool take_hello(struct link *link, const struct frame *frame) {
  if (frame->length != HELLO_BYTES || frame->stream != 0) return false;
  if (memcmp(frame->payload, hello_start + HEADER_BYTES, MAGIC_BYTES) != 0) return false;
  dispatch_forget(link->agent);
  link->output_head = 0;
  link->output_length = 0;
  link->lost = false;
  send_welcome(link, frame->payload + MAGIC_BYTES + 2);
  return true;
}

/* Throws away what cannot be the beginning of a HELLO; returns how many bytes are done with. */
static size_t seek_hello(const uint8_t *bytes, size_t count) {
  const uint8_t *found = memmem(bytes, count, hello_start, sizeof hello_start);
  if (found != NULL) return (size_t)(found - bytes);
  return count < sizeof hello_start ? 0 : count - (sizeof hello_start - 1);
}

/* Takes one frame or pad byte. Returns the bytes it took; 0 when it waits for more or for room. */
static size_t take_one(struct link *link, const uint8_t *bytes, size_t count) {
  struct frame frame;
  enum verdict verdict = frame_judge(bytes, count, &frame);
  if (verdict == VERDICT_PAD) return 1;
  if (verdict == VERDICT_INCOMPLETE) return 0;
  if (verdict == VERDICT_FRAME && frame.type == FRAME_HELLO && take_hello(link, &frame)) return frame_size(&frame);
  if (verdict == VERDICT_FRAME && frame.type != FRAME_HELLO && !link->lost) {
    link->paused = frame.type == FRAME_OPEN && !dispatch_has_room(link->agent);
    if (link->paused) return 0;
    if (dispatch_frame(link->agent, &frame)) return frame_size(&frame);
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

void link_feed(struct link *link, const uint8_t *bytes, size_t count) {
  memcpy(link->input + link->input_length, bytes, count);
  link->input_length += count;
  process_input(link);
}

void link_receive(struct link *link) {
  if (link->paused) process_input(link);
  if (!link->open || !link->readable || link->paused) return;
  size_t room = LINK_INPUT_BYTES - link->input_length;
  ssize_t count = read(link->source.fd, link->input + link->input_length, room);
  if (count > 0) {
    source_heard(link->agent);
    link->input_length += (size_t)count;
    process_input(link);
  } else if (count < 0 && errno == EAGAIN) {
    source_heard(link->agent);
    link->readable = false;
  } else if (count == 0 || errno != EINTR) {
    link->readable = false;
    source_hung_up(link->agent, count == 0 ? 0 : errno);
  }
}

void link_send(struct link *link) {
  while (link->open && link->writable && link->output_length > 0) {
    ssize_t count = write(link->source.fd, link->output + link->output_head, link->output_length);
    if (count > 0) {
      link->output_head += (size_t)count;
      link->output_length -= (size_t)count;
    } else if (count == 0 || errno != EINTR) {
      /* A host that is gone is noticed by reading. */
      link->writable = false;
    }
  }
  if (link->output_length == 0) link->output_head = 0;
}

bool link_is_busy(const struct link *link) {
  return link->open && ((link->readable && !link->paused) || (link->writable && link->output_length > 0));
}

uint8_t *link_frame_room(struct link *link) {
  size_t end = link->output_head + link->output_length;
  if (LINK_OUTPUT_BYTES - end >= MAX_FRAME) return link->output + end;
  if (LINK_OUTPUT_BYTES - link->output_length < MAX_FRAME) return NULL;
  memmove(link->output, link->output + link->output_head, link->output_length);
  link->output_head = 0;
  return link->output + link->output_length;
}

void link_send_frame(struct link *link, enum frame_type type, uint8_t channel, uint32_t stream, size_t length) {
  uint8_t *at = link->output + link->output_head + link->output_length;
  link->output_length += frame_seal(at, type, channel, stream, length);
}
