#include "measure.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* What the engine's thread writes and this one waits for. */
typedef struct {
  const EngineApi *api;
  pthread_mutex_t lock;
  pthread_cond_t ended;
  char *text;
  size_t length;
  double first, last;
  bool done, cut, failed;
} Stream;

double seconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

const char *last_error(const EngineApi *api) {
  const char *message = api->get_last_error_message();
  return message && *message ? message : "the engine gives no reason";
}

static bool append(Stream *stream, const char *text) {
  size_t more = strlen(text);
  char *grown = realloc(stream->text, stream->length + more + 1);
  if (!grown) return false;
  memcpy(grown + stream->length, text, more + 1);
  stream->text = grown;
  stream->length += more;
  return true;
}

/* The context's end and a full budget come as an error, too. */
static bool is_limit(const char *error) {
  return strstr(error, "Max number of tokens reached");
}

static void on_chunk(void *data, void *chunk) {
  Stream *stream = data;
  double now = seconds_now();
  const char *error = stream->api->stream_chunk_get_error(chunk);
  const char *text = error ? NULL : stream->api->stream_chunk_get_text(chunk);
  bool end = error || stream->api->stream_chunk_is_final(chunk);
  pthread_mutex_lock(&stream->lock);
  if (error && is_limit(error)) {
    stream->cut = true;
  } else if (error) {
    fprintf(stderr, "mtp-bench: decoding failed: %s\n", error);
    stream->failed = true;
  }
  if (text && *text) {
    if (stream->first == 0) stream->first = now;
    stream->last = now;
    if (!append(stream, text)) stream->failed = true;
  }
  if (end) {
    stream->done = true;
    pthread_cond_signal(&stream->ended);
  }
  pthread_mutex_unlock(&stream->lock);
}

static void *create_session(const EngineApi *api, void *engine, bool mtp, int max_tokens) {
  void *config = api->session_config_create(), *greedy = api->sampler_params_create(SAMPLER_TOP_P), *session = NULL;
  if (config && greedy) {
    api->sampler_params_set_top_k(greedy, 1);
    api->sampler_params_set_top_p(greedy, 1.0f);
    api->sampler_params_set_temperature(greedy, 1.0f);
    api->session_config_set_sampler_params(config, greedy);
    api->session_config_set_apply_prompt_template(config, false);
    api->session_config_set_max_output_tokens(config, max_tokens);
    api->session_config_set_enable_speculative_decoding(config, mtp);
    session = api->engine_create_session(engine, config);
  }
  if (greedy) api->sampler_params_delete(greedy);
  if (config) api->session_config_delete(config);
  return session;
}

static bool prefill(const EngineApi *api, void *session, const char *prompt) {
  void *input = api->input_data_create(INPUT_TEXT, prompt, strlen(prompt));
  bool good = input && api->session_run_prefill(session, &input, 1) == 0;
  if (!good) fprintf(stderr, "mtp-bench: prefill failed: %s\n", last_error(api));
  if (input) api->input_data_delete(input);
  return good;
}

/* Tokens of the session's answer, as the engine counted them: a text alone does not tell. */
static int count_tokens(const EngineApi *api, void *session) {
  void *info = api->session_get_benchmark_info(session);
  int turns = info ? api->benchmark_info_get_num_decode_turns(info) : 0;
  int count = turns ? api->benchmark_info_get_decode_token_count_at(info, turns - 1) : 0;
  if (info) api->benchmark_info_delete(info);
  return count;
}

static bool decode(const EngineApi *api, void *session, Stream *stream) {
  if (api->session_run_decode_async(session, on_chunk, stream) != 0) {
    fprintf(stderr, "mtp-bench: decoding failed: %s\n", last_error(api));
    return false;
  }
  pthread_mutex_lock(&stream->lock);
  while (!stream->done) pthread_cond_wait(&stream->ended, &stream->lock);
  pthread_mutex_unlock(&stream->lock);
  return !stream->failed;
}

bool measure(const EngineApi *api, void *engine, const char *prompt, bool mtp, int max_tokens, Answer *answer) {
  void *session = create_session(api, engine, mtp, max_tokens);
  if (!session) {
    fprintf(stderr, "mtp-bench: cannot make a session: %s\n", last_error(api));
    return false;
  }
  Stream stream = {.api = api, .lock = PTHREAD_MUTEX_INITIALIZER, .ended = PTHREAD_COND_INITIALIZER};
  double begun = seconds_now();
  bool good = prefill(api, session, prompt);
  double filled = seconds_now();
  good = good && append(&stream, "") && decode(api, session, &stream);
  int tokens = good ? count_tokens(api, session) : 0;
  api->session_delete(session); /* Waits for the engine, so nothing calls back from here on. */
  if (good) {
    *answer = (Answer){.text = stream.text, .prefill = filled - begun, .tokens = tokens};
    answer->cut = stream.cut || tokens >= max_tokens;
    answer->first = stream.first ? stream.first - begun : 0;
    answer->decode = stream.last ? stream.last - filled : 0;
  } else {
    free(stream.text);
  }
  return good;
}
