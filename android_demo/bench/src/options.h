/* The command line. */
#ifndef MTP_BENCH_OPTIONS_H
#define MTP_BENCH_OPTIONS_H

#include <stdbool.h>

typedef struct {
  const char *engine, *bundle, *prompts, *backend, *cache;
  int max_tokens, threads, context, repetitions;
  bool verbose;
} Options;

typedef enum { RUN, HELP, WRONG } Request;

/* Read `arguments`: RUN; HELP, which was printed; or WRONG, with a line on standard error. */
Request read_options(int count, char **arguments, Options *options);

#endif
