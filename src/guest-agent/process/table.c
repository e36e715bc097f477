/* The process table. An ended process is remembered for a while, so that a client that comes late learns of its end. */
#include "process/table.h"

#include <stdlib.h>
#include <string.h>

#include "process/input.h"

static bool is_better(const struct process *candidate, const struct process *best) {
  return best == NULL || candidate->state == PROCESS_RUNNING || best->state != PROCESS_RUNNING;
}

struct process *process_by_pid(struct process_table *table, pid_t pid) {
  struct process *process, *best = NULL;
  TAILQ_FOREACH(process, &table->processes, links) {
    if (process->pid == pid && is_better(process, best)) best = process;
  }
  return best;
}

struct process *process_by_tag(struct process_table *table, const char *tag) {
  struct process *process, *best = NULL;
  TAILQ_FOREACH(process, &table->processes, links) {
    if (process->tag != NULL && strcmp(process->tag, tag) == 0 && is_better(process, best)) best = process;
  }
  return best;
}

void process_close_output(struct process_output *output) {
  loop_remove(output->process->table->loop, &output->source);
  output->open = false;
  output->readable = false;
}

void process_stop_discarding(struct process *process) {
  if (process->discarding) TAILQ_REMOVE(&process->table->discarding, process, discard_links);
  process->discarding = false;
}

void process_forget(struct process *process) {
  struct process_table *table = process->table;
  for (unsigned i = 0; i < process->output_count; i++) {
    if (process->outputs[i].open) process_close_output(&process->outputs[i]);
  }
  process_input_close(process);
  process_stop_discarding(process);
  if (process->state == PROCESS_ENDED) {
    table->ended--;
  } else {
    table->live--;
  }
  TAILQ_REMOVE(&table->processes, process, links);
  free(process->description);
  free(process->tag);
  free(process);
}

static void forget_oldest_ended(struct process_table *table) {
  struct process *process;
  TAILQ_FOREACH(process, &table->processes, links) {
    if (process->state != PROCESS_ENDED || process->attached != NULL) continue;
    process_forget(process);
    return;
  }
}

static void note_end(struct process *process) {
  struct process_table *table = process->table;
  process->ended_ms = now_ms();
  if (table->next_expiry_ms > process->ended_ms + REMEMBER_MS) table->next_expiry_ms = process->ended_ms + REMEMBER_MS;
  table->live--;
  table->ended++;
  if (table->ended > MAX_ENDED) forget_oldest_ended(table);
}

static bool has_open_output(const struct process *process) {
  for (unsigned i = 0; i < process->output_count; i++) {
    if (process->outputs[i].open) return true;
  }
  return false;
}

void process_end_if_drained(struct process *process) {
  if (process->state != PROCESS_EXITED || has_open_output(process)) return;
  process->state = PROCESS_ENDED;
  process_input_close(process);
  process_stop_discarding(process);
  if (process->attached != NULL) stream_wake(process->attached);
  note_end(process);
}

int64_t processes_expire(struct process_table *table, int64_t now) {
  if (now < table->next_expiry_ms) return table->next_expiry_ms;
  table->next_expiry_ms = INT64_MAX;
  struct process *process, *next;
  for (process = TAILQ_FIRST(&table->processes); process != NULL; process = next) {
    next = TAILQ_NEXT(process, links);
    if (process->state != PROCESS_ENDED) continue;
    int64_t due = process->ended_ms + REMEMBER_MS;
    if (due <= now && process->attached != NULL) due = now + REMEMBER_MS;
    if (due <= now) {
      process_forget(process);
    } else if (due < table->next_expiry_ms) {
      table->next_expiry_ms = due;
    }
  }
  return table->next_expiry_ms;
}
