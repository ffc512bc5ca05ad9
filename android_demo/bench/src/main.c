/* Answers every prompt of a file on LiteRT-LM with MTP off and on, in turns, and prints one line of JSON for each:
 *
 *   {"prompt": 1, "repetition": 1, "equal": true,
 *    "off": {"text": "...", "tokens": 40, "tokens_per_second": 9.8, "time_to_first_token": 0.31, "seconds": 4.1},
 *    "on": {...}}
 *
 * The line before them tells how the engine was loaded (context 0: the bundle's own), the line behind them that all was run and how much memory it
 * took. Exit codes: 0 done, 1 the engine failed, 2 bad use or input. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine_api.h"
#include "json.h"
#include "measure.h"
#include "options.h"
#include "prompts.h"

enum { DONE = 0, FAILED = 1, BAD_INPUT = 2, WARM_UP_TOKENS = 8 };

/* The most memory this process held, in KiB; 0 where the kernel does not say. */
static long peak_memory(void) {
  FILE *file = fopen("/proc/self/status", "r");
  long kib = 0;
  char line[256];
  while (file && fgets(line, sizeof line, file))
    if (sscanf(line, "VmHWM: %ld kB", &kib) == 1) break;
  if (file) fclose(file);
  return kib;
}

static bool check_bundle(const EngineApi *api, const char *path) {
  void *file = api->loaded_file_create(path);
  if (!file) {
    fprintf(stderr, "mtp-bench: %s: cannot be read as a bundle: %s\n", path, last_error(api));
    return false;
  }
  bool drafts = api->loaded_file_has_speculative_decoding_support(file);
  if (!drafts) fprintf(stderr, "mtp-bench: %s: has no drafter, so there is nothing to compare\n", path);
  api->loaded_file_delete(file);
  return drafts;
}

/* One engine serves both: each session says whether it drafts. */
static void *create_engine(const EngineApi *api, const Options *options) {
  void *settings = api->engine_settings_create(options->bundle, options->backend, NULL, NULL), *engine = NULL;
  if (settings) {
    if (strcmp(options->backend, "cpu") == 0) api->engine_settings_set_num_threads(settings, options->threads);
    if (options->context) api->engine_settings_set_max_num_tokens(settings, options->context);
    api->engine_settings_set_cache_dir(settings, options->cache);
    api->engine_settings_set_enable_speculative_decoding(settings, true);
    api->engine_settings_enable_benchmark(settings);
    engine = api->engine_create(settings);
    if (!engine) fprintf(stderr, "mtp-bench: %s: the engine cannot be made: %s\n", options->bundle, last_error(api));
    api->engine_settings_delete(settings);
  } else {
    fprintf(stderr, "mtp-bench: %s: %s\n", options->bundle, last_error(api));
  }
  return engine;
}

static void print_answer(const char *name, const Answer *answer) {
  printf(", \"%s\": {\"text\": ", name);
  json_write_string(stdout, answer->text);
  printf(", \"tokens\": %d, \"tokens_per_second\": %.4f", answer->tokens,
         answer->decode > 0 ? answer->tokens / answer->decode : 0.0);
  printf(", \"time_to_first_token\": %.6f, \"seconds\": %.6f}", answer->first, answer->prefill + answer->decode);
}

/* Whether the texts are the same as far as both go. With MTP the engine counts in rounds, so one that a limit ended may
 * be a little longer than the other; one that a stop token ended may not. */
static bool equal_texts(const Answer *off, const Answer *on) {
  size_t one = strlen(off->text), other = strlen(on->text);
  const Answer *shorter = one < other ? off : on;
  if (one == other) return strcmp(off->text, on->text) == 0;
  return strncmp(off->text, on->text, one < other ? one : other) == 0 && shorter->cut;
}

static bool run_prompt(const EngineApi *api, void *engine, const Options *options, const char *prompt, bool mtp_first,
                       Answer answers[2]) {
  for (int turn = 0; turn < 2; turn++) {
    bool mtp = (turn == 0) == mtp_first;
    if (!measure(api, engine, prompt, mtp, options->max_tokens, &answers[mtp])) return false;
  }
  return true;
}

/* Once through all that the measured answers need, so that none of them pays for the first touch of the weights. */
static bool warm_up(const EngineApi *api, void *engine, const char *prompt) {
  Answer answers[2] = {{0}, {0}};
  bool good = measure(api, engine, prompt, false, WARM_UP_TOKENS, &answers[0]) &&
              measure(api, engine, prompt, true, WARM_UP_TOKENS, &answers[1]);
  free(answers[0].text);
  free(answers[1].text);
  return good;
}

static int run(const EngineApi *api, void *engine, const Options *options, const Prompts *prompts) {
  if (!warm_up(api, engine, prompts->texts[0])) return FAILED;
  for (int repetition = 0; repetition < options->repetitions; repetition++) {
    for (size_t i = 0; i < prompts->count; i++) {
      Answer answers[2] = {{0}, {0}};
      /* To and fro, so that neither always runs on the warmer chip. */
      bool mtp_first = ((size_t)repetition + i) % 2 == 1;
      bool good = run_prompt(api, engine, options, prompts->texts[i], mtp_first, answers);
      if (good) {
        printf("{\"prompt\": %zu, \"repetition\": %d, \"equal\": %s", i + 1, repetition + 1,
               equal_texts(&answers[0], &answers[1]) ? "true" : "false");
        print_answer("off", &answers[0]);
        print_answer("on", &answers[1]);
        puts("}");
        fflush(stdout); /* What is done is known, should the system end this process. */
      }
      free(answers[0].text);
      free(answers[1].text);
      if (!good) return FAILED;
    }
  }
  return DONE;
}

int main(int count, char **arguments) {
  Options options;
  EngineApi api;
  Prompts prompts;
  Request request = read_options(count, arguments, &options);
  if (request != RUN) return request == HELP ? DONE : BAD_INPUT;
  if (!read_prompts(options.prompts, &prompts)) return BAD_INPUT;
  int code = BAD_INPUT;
  if (load_engine_api(options.engine, &api)) {
    api.set_min_log_level(options.verbose ? LOG_INFO : LOG_ERROR);
    double begun = seconds_now();
    void *engine = check_bundle(&api, options.bundle) ? create_engine(&api, &options) : NULL;
    if (engine) {
      printf("{\"backend\": \"%s\", \"threads\": %d, \"context\": %d, \"load_seconds\": %.3f}\n", options.backend,
             options.threads, options.context, seconds_now() - begun);
      fflush(stdout);
      code = run(&api, engine, &options, &prompts);
      api.engine_delete(engine); /* Its log tells the drafter's acceptance now. */
      if (code == DONE) printf("{\"done\": true, \"peak_kib\": %ld}\n", peak_memory());
    }
  }
  free_prompts(&prompts);
  return code;
}
