#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char USAGE[] =
    "usage: mtp-bench --engine LIBRARY --bundle FILE.litertlm --prompts FILE.jsonl [options]\n"
    "\n"
    "Answers every prompt with MTP off and on, in turns, and prints a line of JSON for each.\n"
    "\n"
    "  --engine LIBRARY    liblitert-lm.so of LiteRT-LM 0.18\n"
    "  --bundle FILE       the bundle, with a drafter in it\n"
    "  --prompts FILE      one {\"text\": \"...\"} a line, as the model reads it\n"
    "  --backend cpu|gpu   [cpu]\n"
    "  --max-tokens N      of an answer [128]\n"
    "  --threads N         of the CPU backend [4]\n"
    "  --context N         load the bundle with this context, prompt and answer together [the bundle's]\n"
    "  --repetitions N     how often every prompt is answered [1]\n"
    "  --cache FOLDER      where the engine may keep prepared weights [none]\n"
    "  --verbose           the engine's log, with the drafter's acceptance, on standard error\n";

static bool read_number(const char *name, const char *text, int *number) {
  char *end;
  errno = 0;
  long value = strtol(text, &end, 10);
  if (errno || *end || end == text || value < 1 || value > INT_MAX) {
    fprintf(stderr, "mtp-bench: --%s: expected a number from 1 on, found '%s'\n", name, text);
    return false;
  }
  *number = (int)value;
  return true;
}

static bool complete(const Options *options) {
  const char *missing = !options->engine ? "engine" : !options->bundle ? "bundle" : "prompts";
  if (!options->engine || !options->bundle || !options->prompts) {
    fprintf(stderr, "mtp-bench: --%s is missing; see --help\n", missing);
    return false;
  }
  if (strcmp(options->backend, "cpu") != 0 && strcmp(options->backend, "gpu") != 0) {
    fprintf(stderr, "mtp-bench: --backend: expected cpu or gpu, found '%s'\n", options->backend);
    return false;
  }
  return true;
}

Request read_options(int count, char **arguments, Options *options) {
  static const struct option known[] = {
      {"engine", required_argument, NULL, 'e'},  {"bundle", required_argument, NULL, 'b'},
      {"prompts", required_argument, NULL, 'p'}, {"backend", required_argument, NULL, 'k'},
      {"max-tokens", required_argument, NULL, 'm'}, {"threads", required_argument, NULL, 't'},
      {"context", required_argument, NULL, 'c'}, {"repetitions", required_argument, NULL, 'r'},
      {"cache", required_argument, NULL, 'd'},   {"verbose", no_argument, NULL, 'v'},
      {"help", no_argument, NULL, 'h'},          {NULL, 0, NULL, 0},
  };
  *options = (Options){.backend = "cpu", .cache = ":nocache", .max_tokens = 128, .threads = 4, .repetitions = 1};
  bool good = true;
  for (int letter; good && (letter = getopt_long(count, arguments, "", known, NULL)) != -1;) {
    switch (letter) {
      case 'e': options->engine = optarg; break;
      case 'b': options->bundle = optarg; break;
      case 'p': options->prompts = optarg; break;
      case 'k': options->backend = optarg; break;
      case 'd': options->cache = optarg; break;
      case 'v': options->verbose = true; break;
      case 'm': good = read_number("max-tokens", optarg, &options->max_tokens); break;
      case 't': good = read_number("threads", optarg, &options->threads); break;
      case 'c': good = read_number("context", optarg, &options->context); break;
      case 'r': good = read_number("repetitions", optarg, &options->repetitions); break;
      case 'h': fputs(USAGE, stdout); return HELP;
      default: return WRONG;
    }
  }
  if (good && optind < count) {
    fprintf(stderr, "mtp-bench: %s: expected options only; see --help\n", arguments[optind]);
    return WRONG;
  }
  return good && complete(options) ? RUN : WRONG;
}
