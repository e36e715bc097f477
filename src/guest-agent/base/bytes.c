/* The byte queue: one block of memory, which the bytes leave at the head and enter behind the tail. */
#include "base/bytes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool queue_push(struct byte_queue *queue, const uint8_t *bytes, size_t count) {
  if (count == 0) return true;
  if (queue->head > 0 && queue->head + queue->length + count > queue->capacity) {
    memmove(queue->data, queue->data + queue->head, queue->length);
    queue->head = 0;
  }
  size_t needed = queue->head + queue->length + count;
  if (needed > queue->capacity) {
    size_t capacity = queue->capacity == 0 ? 4096 : queue->capacity;
    while (capacity < needed) capacity *= 2;
    uint8_t *data = realloc(queue->data, capacity);
    if (data == NULL) return false;
    queue->data = data;
    queue->capacity = capacity;
  }
  memcpy(queue->data + queue->head + queue->length, bytes, count);
  queue->length += count;
  return true;
}

int queue_write(struct byte_queue *queue, int fd, size_t *written) {
  while (queue->length > 0) {
    ssize_t count = write(fd, queue->data + queue->head, queue->length);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno;
    queue->head += (size_t)count;
    queue->length -= (size_t)count;
    *written += (size_t)count;
  }
  queue_clear(queue);
  return 0;
}

size_t queue_clear(struct byte_queue *queue) {
  size_t length = queue->length;
  free(queue->data);
  *queue = (struct byte_queue){0};
  return length;
}
