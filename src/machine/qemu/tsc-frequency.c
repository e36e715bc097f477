/*
 * The TSC frequency program prints the frequency of this host's time-stamp counter in kHz. Under TCG the guest's
 * counter is the host's. A guest kernel that cannot measure it, because the kernel is preempted while it polls the
 * emulated timer, hangs or loses its clock.
 */
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

struct sample {
  int64_t nanoseconds;
  uint64_t ticks;
};

static int64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC_RAW, &time);
  return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

/* Reads both clocks at one moment: of many readings, takes the one with the shortest interruption. */
static struct sample take_sample(void) {
  struct sample best = {0, 0};
  int64_t smallest = INT64_MAX;
  for (int i = 0; i < 64; i++) {
    int64_t before = now();
    uint64_t ticks = __rdtsc();
    int64_t gap = now() - before;
    if (gap >= smallest) continue;
    smallest = gap;
    best = (struct sample){before + gap / 2, ticks};
  }
  return best;
}

int main(void) {
  struct sample first = take_sample();
  nanosleep(&(struct timespec){0, 50 * 1000 * 1000}, NULL);
  struct sample last = take_sample();
  double milliseconds = (double)(last.nanoseconds - first.nanoseconds) / 1e6;
  printf("%.0f\n", (double)(last.ticks - first.ticks) / milliseconds);
  return 0;
}
