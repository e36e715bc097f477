/* METRICS, from /proc and the root file system. */
#include "machine/metrics.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/small_file.h"

enum { PROC_BYTES = 65536, CPU_COLUMNS = 8, IDLE_COLUMN = 3, WAIT_COLUMN = 4 };

static void put_metric(struct writer *writer, const char *name, uint64_t value) {
  size_t mark = begin_group(writer, TAG_METRIC);
  put_string(writer, TAG_NAME, name);
  put_int(writer, TAG_SIZE, value);
  end_group(writer, mark);
}

static void put_processors(struct writer *writer) {
  static char text[PROC_BYTES];
  uint64_t ticks[CPU_COLUMNS] = {0}, total = 0;
  long count = sysconf(_SC_NPROCESSORS_ONLN);
  if (get_file("/proc/stat", text, sizeof text) > 0) {
    sscanf(text, "cpu %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64,
           &ticks[0], &ticks[1], &ticks[2], &ticks[3], &ticks[4], &ticks[5], &ticks[6], &ticks[7]);
  }
  for (int i = 0; i < CPU_COLUMNS; i++) total += ticks[i];
  put_metric(writer, "cpu_count", count > 0 ? (uint64_t)count : 1);
  put_metric(writer, "cpu_busy_ticks", total - ticks[IDLE_COLUMN] - ticks[WAIT_COLUMN]);
  put_metric(writer, "cpu_total_ticks", total);
}

/* The value of a line of /proc/meminfo, in bytes. */
static uint64_t memory_line(const char *text, const char *name) {
  uint64_t kib = 0;
  const char *line = strstr(text, name);
  if (line != NULL) sscanf(line + strlen(name), " %" SCNu64, &kib);
  return kib * 1024;
}

static void put_memory(struct writer *writer) {
  char text[8192];
  if (get_file("/proc/meminfo", text, sizeof text) < 0) text[0] = '\0';
  uint64_t total = memory_line(text, "MemTotal:");
  put_metric(writer, "mem_total", total);
  put_metric(writer, "mem_used", total - memory_line(text, "MemAvailable:"));
  put_metric(writer, "mem_cache", memory_line(text, "\nCached:"));
}

static void put_disk(struct writer *writer) {
  struct statvfs disk = {0};
  if (statvfs("/", &disk) != 0) disk = (struct statvfs){0};
  put_metric(writer, "disk_total", (uint64_t)disk.f_blocks * disk.f_frsize);
  put_metric(writer, "disk_used", (uint64_t)(disk.f_blocks - disk.f_bfree) * disk.f_frsize);
}

void open_metrics(struct request *request) {
  struct writer *scratch = &request->stream->table->scratch;
  writer_start(scratch, 0);
  put_processors(scratch);
  put_memory(scratch);
  put_disk(scratch);
  stream_finish_with_scratch(request->stream, STATUS_OK);
}
