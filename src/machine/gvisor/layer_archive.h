/*
 * A packed layer: a tar archive of one sparse file, in the form in which GNU tar writes one with `--sparse`, so that
 * `tar` reads what is written here and the other way round. What is read may be hostile: nothing in an archive is
 * believed that would make more than a file of the size that it names.
 *
 * Both functions return NULL, or say what is wrong; errno tells more, or is 0.
 */
#ifndef FIRKIN_LAYER_ARCHIVE_H
#define FIRKIN_LAYER_ARCHIVE_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
  ARCHIVE_BLOCK = 512,
  RUNS_IN_HEADER = 4,
  RUNS_IN_BLOCK = 21,
  NUMBER_BYTES = 12,
  COPY_BYTES = 256 * 1024,
};

/* A run of data in the file; as text: in octal digits, or with the highest bit set as a number. */
struct archive_run {
  char offset[NUMBER_BYTES], length[NUMBER_BYTES];
};

struct archive_header {
  char name[100], mode[8], owner[8], group[8], packed_bytes[NUMBER_BYTES], time[NUMBER_BYTES], sum[8], type;
  char link[100], magic[8], owner_name[32], group_name[32], device[16], unused[41];
  struct archive_run runs[RUNS_IN_HEADER];
  char has_more, file_bytes[NUMBER_BYTES], padding[17];
};

/* Follows a header, or another one of these, that has more runs. */
struct archive_more {
  struct archive_run runs[RUNS_IN_BLOCK];
  char has_more, padding[7];
};

_Static_assert(sizeof(struct archive_header) == ARCHIVE_BLOCK, "a header is a block");
_Static_assert(sizeof(struct archive_more) == ARCHIVE_BLOCK, "a block of runs is a block");

static void put_number(char field[NUMBER_BYTES], uint64_t number) {
  if (number < 1ULL << 33) {
    for (int i = NUMBER_BYTES - 2; i >= 0; i--, number >>= 3) field[i] = (char)('0' + (number & 7));
    return;
  }
  field[0] = (char)0x80;
  for (int i = NUMBER_BYTES - 1; i > 0; i--, number >>= 8) field[i] = (char)(number & 0xff);
}

/* False for what is no number, or one that no file can have. */
static bool get_number(const char field[NUMBER_BYTES], uint64_t *number) {
  uint64_t value = 0;
  if ((unsigned char)field[0] == 0x80) {
    for (int i = 1; i < NUMBER_BYTES; i++) {
      if (value >> 47) return false;
      value = value << 8 | (unsigned char)field[i];
    }
  } else {
    int at = 0;
    while (at < NUMBER_BYTES && field[at] == ' ') at++;
    if (at == NUMBER_BYTES || field[at] < '0' || field[at] > '7') return false;
    for (; at < NUMBER_BYTES && field[at] >= '0' && field[at] <= '7'; at++)
      value = value << 3 | (uint64_t)(field[at] - '0');
    if (at < NUMBER_BYTES && field[at] != ' ' && field[at] != '\0') return false;
  }
  *number = value;
  return value < 1ULL << 47;
}

/* The sum of a header's bytes, in which its own field counts as spaces. */
static unsigned sum_of(const struct archive_header *header) {
  const unsigned char *bytes = (const unsigned char *)header;
  unsigned sum = sizeof header->sum * ' ';
  for (size_t i = 0; i < ARCHIVE_BLOCK; i++) {
    bool is_own = i >= offsetof(struct archive_header, sum) && i < offsetof(struct archive_header, type);
    if (!is_own) sum += bytes[i];
  }
  return sum;
}

/* False at an error, which errno tells, or at the end of the file, with errno 0. */
static bool read_all(int fd, void *target, size_t length, uint64_t offset) {
  for (size_t done = 0; done < length;) {
    ssize_t got = pread(fd, (char *)target + done, length - done, (off_t)(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got == 0) errno = 0;
    if (got <= 0) return false;
    done += (size_t)got;
  }
  return true;
}

static bool write_all(int fd, const void *source, size_t length, uint64_t offset) {
  for (size_t done = 0; done < length;) {
    ssize_t put = pwrite(fd, (const char *)source + done, length - done, (off_t)(offset + done));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return false;
    done += (size_t)put;
  }
  return true;
}

static bool copy_bytes(int from, uint64_t from_offset, int to, uint64_t to_offset, uint64_t length) {
  static char bytes[COPY_BYTES];
  while (length > 0) {
    size_t piece = length < COPY_BYTES ? length : COPY_BYTES;
    if (!read_all(from, bytes, piece, from_offset) || !write_all(to, bytes, piece, to_offset)) return false;
    from_offset += piece;
    to_offset += piece;
    length -= piece;
  }
  return true;
}

/*
 * The next run of data at or after `*end`, which becomes its end. A file that ends in a hole has an empty run at its
 * end. False behind the last one, with errno 0, and at an error.
 */
static bool find_run(int image, uint64_t file_bytes, uint64_t *begin, uint64_t *end) {
  errno = 0;
  if (*end >= file_bytes) return false;
  off_t data = lseek(image, (off_t)*end, SEEK_DATA);
  if (data < 0 && errno == ENXIO) {
    *begin = *end = file_bytes;
    return true;
  }
  if (data < 0) return false;
  off_t hole = lseek(image, data, SEEK_HOLE);
  if (hole < 0) return false;
  *begin = (uint64_t)data;
  *end = (uint64_t)hole;
  return true;
}

/* Where a reader is in the list of runs, which the header begins and blocks behind it continue. */
struct run_list {
  const struct archive_run *runs;
  size_t index, count;
  bool has_more;
  struct archive_more more;
  /* Of the next block; behind the last one it is where the data begins. */
  uint64_t at;
};

static struct run_list runs_of(const struct archive_header *header) {
  return (struct run_list){
      .runs = header->runs, .count = RUNS_IN_HEADER, .has_more = header->has_more, .at = ARCHIVE_BLOCK};
}

/* The next run of the list, whose first empty place is behind the last run: NULL then, and at an error, which
 * `*problem` tells. */
static const struct archive_run *take_run(int archive, struct run_list *list, const char **problem) {
  if (list->index == list->count && list->has_more) {
    if (!read_all(archive, &list->more, sizeof list->more, list->at)) {
      *problem = "it ends too early";
      return NULL;
    }
    list->runs = list->more.runs;
    list->index = 0;
    list->count = RUNS_IN_BLOCK;
    list->has_more = list->more.has_more;
    list->at += ARCHIVE_BLOCK;
  }
  if (list->index == list->count || list->runs[list->index].offset[0] == '\0') return NULL;
  return &list->runs[list->index++];
}

/* Where the data begins: behind the last block of runs. */
static const char *find_data(int archive, const struct archive_header *header, uint64_t *at) {
  struct run_list list = runs_of(header);
  const char *problem = NULL;
  while (take_run(archive, &list, &problem)) {}
  if (list.has_more && !problem) problem = "a run is missing";
  *at = list.at;
  return problem;
}

/* Writes the list of an image's runs, in the header and behind it. False at an error. */
static bool write_runs(int image, uint64_t file_bytes, int archive, struct archive_header *header) {
  struct archive_more more = {0};
  struct archive_run *runs = header->runs;
  size_t count = 0, room = RUNS_IN_HEADER;
  uint64_t begin, end = 0, packed_bytes = 0, at = ARCHIVE_BLOCK;
  while (find_run(image, file_bytes, &begin, &end)) {
    if (count == room) {
      bool is_first = runs == header->runs;
      *(is_first ? &header->has_more : &more.has_more) = 1;
      if (!is_first && !write_all(archive, &more, sizeof more, at)) return false;
      if (!is_first) at += ARCHIVE_BLOCK;
      memset(&more, 0, sizeof more);
      runs = more.runs;
      room = RUNS_IN_BLOCK;
      count = 0;
    }
    put_number(runs[count].offset, begin);
    put_number(runs[count++].length, end - begin);
    packed_bytes += end - begin;
  }
  if (errno) return false;
  put_number(header->packed_bytes, packed_bytes);
  return runs == header->runs || write_all(archive, &more, sizeof more, at);
}

/*
 * Copies the data of all runs, from or to where the header says that it is. What a file system calls data changes while
 * a file is read, so the list is what counts, not what is found once more.
 */
static const char *copy_runs(const struct archive_header *header, int archive, int image, bool packs) {
  uint64_t at, rest, file_bytes, offset, length, last_end = 0;
  const char *problem = find_data(archive, header, &at);
  if (problem) return problem;
  if (!get_number(header->packed_bytes, &rest) || !get_number(header->file_bytes, &file_bytes))
    return "its header is damaged";
  struct run_list list = runs_of(header);
  const struct archive_run *run;
  while ((run = take_run(archive, &list, &problem))) {
    errno = 0;
    if (!get_number(run->offset, &offset) || !get_number(run->length, &length)) return "a run is no number";
    bool is_whole = offset % ARCHIVE_BLOCK == 0 && length % ARCHIVE_BLOCK == 0;
    if (!is_whole || offset < last_end || offset + length > file_bytes || length > rest)
      return "a run is outside of the file";
    bool is_copied =
        packs ? copy_bytes(image, offset, archive, at, length) : copy_bytes(archive, at, image, offset, length);
    if (!is_copied) return "the data cannot be copied";
    at += length;
    rest -= length;
    last_end = offset + length;
  }
  if (problem) return problem;
  errno = 0;
  if (rest > 0) return "some of its data is missing";
  static const char end_of_archive[2 * ARCHIVE_BLOCK];
  if (packs && !write_all(archive, end_of_archive, sizeof end_of_archive, at)) return "its end cannot be written";
  return NULL;
}

/*
 * Packs an image whose size and runs of data are whole blocks, as those of every file system's image are.
 * @param archive an empty file that can be read, too
 */
static const char *write_archive(int image, int archive, const char *name) {
  struct archive_header header = {.mode = "0000600", .owner = "0000000", .group = "0000000", .type = 'S'};
  struct stat found;
  if (fstat(image, &found)) return "the disk's image cannot be looked at";
  snprintf(header.name, sizeof header.name, "%s", name);
  memcpy(header.magic, "ustar  ", sizeof header.magic);
  put_number(header.time, (uint64_t)found.st_mtime);
  put_number(header.file_bytes, (uint64_t)found.st_size);
  if (!write_runs(image, (uint64_t)found.st_size, archive, &header)) return "the disk's data cannot be listed";
  snprintf(header.sum, sizeof header.sum, "%06o", sum_of(&header));
  header.sum[7] = ' ';
  if (!write_all(archive, &header, sizeof header, 0)) return "the header cannot be written";
  return copy_runs(&header, archive, image, true);
}

/* Unpacks the one file of an archive into an empty image. */
static const char *read_archive(int archive, int image, const char *name) {
  struct archive_header header;
  char sum[sizeof header.sum + 1] = {0};
  uint64_t file_bytes;
  if (!read_all(archive, &header, sizeof header, 0)) return "it has no header";
  errno = 0;
  memcpy(sum, header.sum, sizeof header.sum);
  if (strtoul(sum, NULL, 8) != sum_of(&header)) return "its header is damaged";
  if (strncmp(header.name, name, sizeof header.name) != 0) return "it is the archive of something else";
  if (header.type != 'S' && header.type != '0') return "it is the archive of no file";
  if (header.type == '0') {
    /* GNU tar has no list of runs for a file without holes. */
    memset(header.runs, 0, sizeof header.runs);
    put_number(header.runs[0].offset, 0);
    memcpy(header.runs[0].length, header.packed_bytes, NUMBER_BYTES);
    memcpy(header.file_bytes, header.packed_bytes, NUMBER_BYTES);
    header.has_more = 0;
  }
  if (!get_number(header.file_bytes, &file_bytes)) return "its header is damaged";
  if (ftruncate(image, (off_t)file_bytes)) return "its image cannot be made";
  return copy_runs(&header, archive, image, false);
}

#endif
