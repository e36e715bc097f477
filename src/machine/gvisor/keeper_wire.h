/* The guest's network, frame by frame: from a packet socket to a stream, and back. A frame without room is lost. */
#ifndef FIRKIN_KEEPER_WIRE_H
#define FIRKIN_KEEPER_WIRE_H

#include "keeper.h"

enum { MAX_FRAME = 68 * 1024, STREAM_BYTES = 4 * (MAX_FRAME + 4), FRAMES_AT_ONCE = 64 };

struct frames {
  unsigned char bytes[STREAM_BYTES];
  size_t begin, end;
};

static struct frames leaving, coming;

static void watch_wire(struct pollfd *packets, struct pollfd *stream) {
  bool has_room = STREAM_BYTES - leaving.end >= MAX_FRAME + 4;
  packets->events = has_room ? POLLIN : 0;
  stream->events = (short)(POLLIN | (leaving.begin < leaving.end ? POLLOUT : 0));
}

static void make_room(struct frames *frames) {
  if (frames->begin == 0) return;
  memmove(frames->bytes, frames->bytes + frames->begin, frames->end - frames->begin);
  frames->end -= frames->begin;
  frames->begin = 0;
}

static void take_packets(int packets) {
  for (int taken = 0; taken < FRAMES_AT_ONCE; taken++) {
    if (STREAM_BYTES - leaving.end < MAX_FRAME + 4) make_room(&leaving);
    if (STREAM_BYTES - leaving.end < MAX_FRAME + 4) return;
    unsigned char *head = leaving.bytes + leaving.end;
    ssize_t length = recv(packets, head + 4, MAX_FRAME, MSG_DONTWAIT);
    if (length <= 0) return;
    uint32_t prefix = htonl((uint32_t)length);
    memcpy(head, &prefix, sizeof prefix);
    leaving.end += 4 + (size_t)length;
  }
}

/* False when the stream has ended. */
static bool send_stream(int stream) {
  while (leaving.begin < leaving.end) {
    ssize_t sent =
        send(stream, leaving.bytes + leaving.begin, leaving.end - leaving.begin, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) return errno == EAGAIN || errno == EINTR;
    leaving.begin += (size_t)sent;
  }
  leaving.begin = leaving.end = 0;
  return true;
}

static bool take_stream(int stream, int packets) {
  make_room(&coming);
  ssize_t got = recv(stream, coming.bytes + coming.end, STREAM_BYTES - coming.end, MSG_DONTWAIT);
  if (got == 0) return false;
  if (got < 0) return errno == EAGAIN || errno == EINTR;
  coming.end += (size_t)got;
  while (coming.end - coming.begin >= 4) {
    uint32_t length;
    memcpy(&length, coming.bytes + coming.begin, sizeof length);
    length = ntohl(length);
    if (length > MAX_FRAME) return false;
    if (coming.end - coming.begin - 4 < length) break;
    /* A full queue loses the frame, as a network does. */
    if (send(packets, coming.bytes + coming.begin + 4, length, MSG_DONTWAIT) < 0 && errno == EBADF) return false;
    coming.begin += 4 + length;
  }
  return true;
}

/* False when the network has ended. */
static bool carry_frames(int packets, int stream) {
  take_packets(packets);
  return send_stream(stream) && take_stream(stream, packets) && send_stream(stream);
}

#endif
