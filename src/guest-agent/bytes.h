/* Big-endian integers in byte buffers, and a queue of bytes that wait for a descriptor to take them. */
#ifndef FIRKIN_BYTES_H
#define FIRKIN_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline uint16_t get_u16(const uint8_t *at) { return (uint16_t)((at[0] << 8) | at[1]); }

static inline uint32_t get_u32(const uint8_t *at) {
  return ((uint32_t)at[0] << 24) | ((uint32_t)at[1] << 16) | ((uint32_t)at[2] << 8) | (uint32_t)at[3];
}

static inline uint64_t get_u64(const uint8_t *at) { return ((uint64_t)get_u32(at) << 32) | get_u32(at + 4); }

static inline void put_u16(uint8_t *at, uint16_t value) {
  at[0] = (uint8_t)(value >> 8);
  at[1] = (uint8_t)value;
}

static inline void put_u32(uint8_t *at, uint32_t value) {
  put_u16(at, (uint16_t)(value >> 16));
  put_u16(at + 2, (uint16_t)value);
}

static inline void put_u64(uint8_t *at, uint64_t value) {
  put_u32(at, (uint32_t)(value >> 32));
  put_u32(at + 4, (uint32_t)value);
}

/* Bytes in order; the memory is given back whenever the queue is empty. */
struct byte_queue {
  uint8_t *data;
  size_t head;
  size_t length;
  size_t capacity;
};

/* False when memory is short; nothing was added then. */
bool queue_push(struct byte_queue *queue, const uint8_t *bytes, size_t count);

/* Writes what the descriptor takes, adding to `*written`. Returns 0 when the queue is empty, else why not (EAGAIN: full). */
int queue_write(struct byte_queue *queue, int fd, size_t *written);

/* Throws everything away; returns how much that was. */
size_t queue_clear(struct byte_queue *queue);

#endif
