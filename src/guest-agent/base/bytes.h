/*
 * The room `base` holds what every other room stands on: integers and queues of bytes, the event loop, small files and
 * lists of strings. It may call nothing of the agent outside itself.
 *
 * This file: big-endian integers in byte buffers, and the byte queue, whose bytes wait until a descriptor takes them.
 */
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

/* Bytes in order. The queue frees its memory whenever it is empty. */
struct byte_queue {
  uint8_t *data;
  size_t head;
  size_t length;
  size_t capacity;
};

/* False when memory is short; the queue is unchanged then. */
bool queue_push(struct byte_queue *queue, const uint8_t *bytes, size_t count);

/*
 * Writes as much as the descriptor takes, and adds that to `*written`. Returns 0 when the queue is empty afterwards,
 * else the errno that stopped the writing (EAGAIN: the descriptor is full).
 */
int queue_write(struct byte_queue *queue, int fd, size_t *written);

/* Throws all bytes away; returns how many they were. */
size_t queue_clear(struct byte_queue *queue);

#endif
