#include "prompts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

/* The text of one line, NULL if it is no object with `text` alone. */
static char *parse(const char *at) {
  at = json_skip_space(at);
  if (*at != '{') return NULL;
  at = json_skip_space(at + 1);
  char *key = json_read_string(&at);
  bool known = key && strcmp(key, "text") == 0;
  free(key);
  at = json_skip_space(at);
  if (!known || *at != ':') return NULL;
  at = json_skip_space(at + 1);
  char *text = json_read_string(&at);
  at = json_skip_space(at);
  if (text && *at == '}' && !*json_skip_space(at + 1)) return text;
  free(text);
  return NULL;
}

static bool append(Prompts *prompts, char *text) {
  char **texts = realloc(prompts->texts, (prompts->count + 1) * sizeof *texts);
  if (!texts) return false;
  prompts->texts = texts;
  texts[prompts->count++] = text;
  return true;
}

bool read_prompts(const char *path, Prompts *prompts) {
  *prompts = (Prompts){0};
  FILE *file = fopen(path, "r");
  if (!file) {
    fprintf(stderr, "mtp-bench: %s: %s\n", path, strerror(errno));
    return false;
  }
  char *line = NULL;
  size_t room = 0;
  bool good = true;
  for (size_t number = 1; good && getline(&line, &room, file) >= 0; number++) {
    if (!*json_skip_space(line)) continue;
    char *text = parse(line);
    good = text && append(prompts, text);
    if (!good) fprintf(stderr, "mtp-bench: %s, line %zu: expected {\"text\": \"...\"}\n", path, number);
  }
  free(line);
  fclose(file);
  if (good && !prompts->count) {
    fprintf(stderr, "mtp-bench: %s: no prompt; expected lines such as {\"text\": \"...\"}\n", path);
    good = false;
  }
  if (!good) free_prompts(prompts);
  return good;
}

void free_prompts(Prompts *prompts) {
  for (size_t i = 0; i < prompts->count; i++) free(prompts->texts[i]);
  free(prompts->texts);
  *prompts = (Prompts){0};
}
