/* The prompt file: one `{"text": "..."}` a line, as the model reads it, but for the start token. */
#ifndef MTP_BENCH_PROMPTS_H
#define MTP_BENCH_PROMPTS_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
  char **texts;
  size_t count;
} Prompts;

/* Read the file at `path`; empty lines are skipped. False with a line on standard error that names what is wrong. */
bool read_prompts(const char *path, Prompts *prompts);

void free_prompts(Prompts *prompts);

#endif
