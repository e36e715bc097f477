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
static bool next_run(int image, uint64_t file_bytes, uint64_t *begin, uint64_t *end) {
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

/* Writes the blocks of runs that follow the header, and returns where the data begins; 0 at an error. */
static uint64_t write_runs(int image, uint64_t file_bytes, int archive, struct archive_header *header,
                           uint64_t *packed_bytes) {
  struct archive_more more = {0};
  struct archive_run *runs = header->runs;
  size_t count = 0, room = RUNS_IN_HEADER;
  uint64_t begin, end = 0, at = ARCHIVE_BLOCK;
  while (next_run(image, file_bytes, &begin, &end)) {
    if (count == room) {
      char *has_more = runs == header->runs ? &header->has_more : &more.has_more;
      *has_more = 1;
      if (runs != header->runs) {
        if (!write_all(archive, &more, sizeof more, at)) return 0;
        at += ARCHIVE_BLOCK;
      }
      memset(&more, 0, sizeof more);
      runs = more.runs;
      room = RUNS_IN_BLOCK;
      count = 0;
    }
    put_number(runs[count].offset, begin);
    put_number(runs[count++].length, end - begin);
    *packed_bytes += end - begin;
  }
  if (errno) return 0;
  if (runs == header->runs) return at;
  return write_all(archive, &more, sizeof more, at) ? at + ARCHIVE_BLOCK : 0;
}

/* Packs an image whose size and runs of data are whole blocks, as those of every file system's image are. */
static const char *write_archive(int image, int archive, const char *name) {
  static const char nothing[2 * ARCHIVE_BLOCK];
  struct archive_header header = {.mode = "0000600", .owner = "0000000", .group = "0000000", .type = 'S'};
  struct stat found;
  uint64_t packed_bytes = 0, begin, end;
  if (fstat(image, &found)) return "the disk's image cannot be looked at";
  snprintf(header.name, sizeof header.name, "%s", name);
  memcpy(header.magic, "ustar  ", sizeof header.magic);
  put_number(header.time, (uint64_t)found.st_mtime);
  uint64_t file_bytes = (uint64_t)found.st_size;
  put_number(header.file_bytes, file_bytes);
  uint64_t at = write_runs(image, file_bytes, archive, &header, &packed_bytes);
  if (at == 0) return "the disk's data cannot be found";
  put_number(header.packed_bytes, packed_bytes);
  snprintf(header.sum, sizeof header.sum, "%06o", sum_of(&header));
  header.sum[7] = ' ';
  if (!write_all(archive, &header, sizeof header, 0)) return "the disk cannot be packed";
  end = 0;
  while (next_run(image, file_bytes, &begin, &end)) {
    if (!copy_bytes(image, begin, archive, at, end - begin)) return "the disk cannot be packed";
    at += end - begin;
  }
  if (errno || !write_all(archive, nothing, sizeof nothing, at)) return "the disk cannot be packed";
  return NULL;
}

/* Where the file is in its archive, and its size. */
struct archive_place {
  uint64_t at, packed_bytes, file_bytes, last_end;
};

/* Unpacks runs, of which the first one that is empty is behind the last. */
static const char *unpack_runs(int archive, int image, const struct archive_run *runs, size_t count,
                               struct archive_place *place) {
  for (size_t i = 0; i < count && runs[i].offset[0] != '\0'; i++) {
    uint64_t offset, length;
    errno = 0;
    if (!get_number(runs[i].offset, &offset) || !get_number(runs[i].length, &length)) return "a run is no number";
    bool is_whole = offset % ARCHIVE_BLOCK == 0 && length % ARCHIVE_BLOCK == 0;
    if (!is_whole || offset < place->last_end || offset + length > place->file_bytes || length > place->packed_bytes)
      return "a run is outside of the file";
    if (!copy_bytes(archive, place->at, image, offset, length)) return "the data cannot be copied";
    place->at += length;
    place->packed_bytes -= length;
    place->last_end = offset + length;
  }
  return NULL;
}

/* The number of blocks of runs behind the header is where the data begins. False when the archive ends in them. */
static bool find_data(int archive, const struct archive_header *header, uint64_t *at) {
  struct archive_more more = {.has_more = header->has_more};
  *at = ARCHIVE_BLOCK;
  while (more.has_more) {
    if (!read_all(archive, &more, sizeof more, *at)) return false;
    *at += ARCHIVE_BLOCK;
  }
  return true;
}

/* Unpacks the one file of an archive into an empty image. */
static const char *read_archive(int archive, int image, const char *name) {
  struct archive_header header;
  struct archive_more more;
  struct archive_place place = {0};
  const char *problem;
  if (!read_all(archive, &header, sizeof header, 0)) return "it has no header";
  errno = 0;
  if (strtoul(header.sum, NULL, 8) != sum_of(&header)) return "its header is damaged";
  if (strncmp(header.name, name, sizeof header.name) != 0) return "it is the archive of something else";
  if (!get_number(header.packed_bytes, &place.packed_bytes)) return "its header is damaged";
  place.file_bytes = place.packed_bytes;
  /* GNU tar has nothing to say of a file without holes. */
  bool is_sparse = header.type == 'S';
  if (!is_sparse && header.type != '0') return "it is the archive of no file";
  if (is_sparse && !get_number(header.file_bytes, &place.file_bytes)) return "its header is damaged";
  if (!is_sparse) {
    memset(header.runs, 0, sizeof header.runs);
    put_number(header.runs[0].offset, 0);
    put_number(header.runs[0].length, place.file_bytes);
    header.has_more = 0;
  }
  if (ftruncate(image, (off_t)place.file_bytes)) return "its image cannot be made";
  if (!find_data(archive, &header, &place.at)) return "it ends too early";
  if ((problem = unpack_runs(archive, image, header.runs, RUNS_IN_HEADER, &place))) return problem;
  bool has_more = header.has_more;
  for (uint64_t at = ARCHIVE_BLOCK; has_more; at += ARCHIVE_BLOCK) {
    if (!read_all(archive, &more, sizeof more, at)) return "it ends too early";
    if ((problem = unpack_runs(archive, image, more.runs, RUNS_IN_BLOCK, &place))) return problem;
    has_more = more.has_more;
  }
  errno = 0;
  return place.packed_bytes == 0 ? NULL : "some of its data is missing";
}

#endif
