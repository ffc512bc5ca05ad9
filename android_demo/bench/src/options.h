/* The command line. */
#ifndef MTP_BENCH_OPTIONS_H
#define MTP_BENCH_OPTIONS_H

#include <stdbool.h>

typedef struct {
  const char *engine, *bundle, *prompts, *backend, *cache;
  int max_tokens, threads, context, repetitions;
  bool verbose;
} Options;

/* Read `arguments`; false with a line on standard error, or after the help, if there is nothing to run. */
bool read_options(int count, char **arguments, Options *options);

#endif
