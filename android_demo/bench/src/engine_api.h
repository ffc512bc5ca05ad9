/* What this program calls of LiteRT-LM's C API, taken from a shared library at run time.
 *
 * Names, order of arguments and types are those of liblitert-lm.so 0.18.1 (in the PyPI wheel litert-lm-api). Every
 * handle is opaque. Other versions have other signatures under the same names: streaming callbacks took four arguments
 * before, and later functions return a status. Take program and library of one version. */
#ifndef MTP_BENCH_ENGINE_API_H
#define MTP_BENCH_ENGINE_API_H

#include <stdbool.h>
#include <stddef.h>

enum { INPUT_TEXT = 0, SAMPLER_TOP_P = 2, LOG_INFO = 2, LOG_ERROR = 4 };

/* Called on a thread of the engine's for every piece of text; `chunk` is valid during the call. */
typedef void (*StreamCallback)(void *data, void *chunk);

/* One row each: type of the result, name behind `litert_lm_`, arguments. */
#define ENGINE_FUNCTIONS(F)                                                                         \
  F(void, set_min_log_level, (int level))                                                           \
  F(const char *, get_last_error_message, (void))                                                   \
  F(void *, loaded_file_create, (const char *path))                                                 \
  F(void, loaded_file_delete, (void *file))                                                         \
  F(bool, loaded_file_has_speculative_decoding_support, (void *file))                               \
  F(void *, engine_settings_create,                                                                 \
    (const char *model, const char *backend, const char *vision, const char *audio))                \
  F(void, engine_settings_delete, (void *settings))                                                 \
  F(void, engine_settings_set_max_num_tokens, (void *settings, int tokens))                         \
  F(void, engine_settings_set_num_threads, (void *settings, int threads))                           \
  F(void, engine_settings_set_cache_dir, (void *settings, const char *folder))                      \
  F(void, engine_settings_set_enable_speculative_decoding, (void *settings, bool enable))           \
  F(void, engine_settings_enable_benchmark, (void *settings))                                       \
  F(void *, engine_create, (void *settings))                                                        \
  F(void, engine_delete, (void *engine))                                                            \
  F(void *, engine_create_session, (void *engine, void *config))                                    \
  F(void *, sampler_params_create, (int type))                                                      \
  F(void, sampler_params_delete, (void *params))                                                    \
  F(void, sampler_params_set_top_k, (void *params, int k))                                          \
  F(void, sampler_params_set_top_p, (void *params, float p))                                        \
  F(void, sampler_params_set_temperature, (void *params, float temperature))                        \
  F(void *, session_config_create, (void))                                                          \
  F(void, session_config_delete, (void *config))                                                    \
  F(void, session_config_set_max_output_tokens, (void *config, int tokens))                         \
  F(void, session_config_set_apply_prompt_template, (void *config, bool apply))                     \
  F(void, session_config_set_sampler_params, (void *config, void *params))                          \
  F(void, session_config_set_enable_speculative_decoding, (void *config, bool enable))              \
  F(void, session_delete, (void *session))                                                          \
  F(void *, session_get_benchmark_info, (void *session))                                            \
  F(int, benchmark_info_get_num_decode_turns, (void *info))                                         \
  F(int, benchmark_info_get_decode_token_count_at, (void *info, int turn))                          \
  F(void, benchmark_info_delete, (void *info))                                                      \
  F(void *, input_data_create, (int type, const void *data, size_t bytes))                          \
  F(void, input_data_delete, (void *input))                                                         \
  F(int, session_run_prefill, (void *session, void **inputs, size_t count))                         \
  F(int, session_run_decode_async, (void *session, StreamCallback callback, void *data))            \
  F(const char *, stream_chunk_get_text, (void *chunk))                                             \
  F(const char *, stream_chunk_get_error, (void *chunk))                                            \
  F(bool, stream_chunk_is_final, (void *chunk))

typedef struct {
#define DECLARE(result, name, arguments) result(*name) arguments;
  ENGINE_FUNCTIONS(DECLARE)
#undef DECLARE
} EngineApi;

/* Fill `api` from the library at `path`; false with a line on standard error if it cannot be loaded or lacks a name. */
bool load_engine_api(const char *path, EngineApi *api);

#endif
