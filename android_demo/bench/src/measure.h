/* One answer, greedy, and how long it took. */
#ifndef MTP_BENCH_MEASURE_H
#define MTP_BENCH_MEASURE_H

#include <stdbool.h>

#include "engine_api.h"

/* Times in seconds. `first` is from the prompt's begin to the first text, prefill included; `decode` from prefill's end
 * to the last text. `tokens` are the answer's, as the engine counts them; `cut` where the context's end or the budget
 * ended it, and no stop token. */
typedef struct {
  char *text;
  int tokens;
  bool cut;
  double prefill, first, decode;
} Answer;

/* Answer `prompt` in a session of its own, with or without speculative decoding, until a stop token, the context's end
 * or `max_tokens`; with it, the engine finishes the round in which it reaches them. The engine must count, see
 * enable_benchmark. False with a line on standard error if it fails. Free `answer->text`. */
bool measure(const EngineApi *api, void *engine, const char *prompt, bool mtp, int max_tokens, Answer *answer);

double seconds_now(void);

/* The engine's word for the last failure on this thread. */
const char *last_error(const EngineApi *api);

#endif
