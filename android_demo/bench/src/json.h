/* As much of JSON as prompts and results need. */
#ifndef MTP_BENCH_JSON_H
#define MTP_BENCH_JSON_H

#include <stdio.h>

/* Write `text` (UTF-8) as a JSON string. Bytes that are no UTF-8 become U+FFFD: an answer that was cut may end within a
 * character. */
void json_write_string(FILE *out, const char *text);

/* Read the JSON string that begins at `*at`, and move `*at` behind it. Returns UTF-8 to be freed, NULL if it is none or
 * holds the character 0. */
char *json_read_string(const char **at);

/* `at` moved over white space. */
const char *json_skip_space(const char *at);

#endif
