#include "engine_api.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static bool find(void *library, const char *path, const char *name, void *slot) {
  void *symbol = dlsym(library, name);
  if (!symbol) {
    fprintf(stderr, "mtp-bench: %s: has no %s; expected LiteRT-LM 0.18\n", path, name);
    return false;
  }
  /* ISO C has no cast from an object's pointer to a function's. */
  memcpy(slot, &symbol, sizeof symbol);
  return true;
}

bool load_engine_api(const char *path, EngineApi *api) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    fprintf(stderr, "mtp-bench: cannot load the engine: %s\n", dlerror());
    return false;
  }
#define FIND(result, name, arguments)                                       \
  if (!find(library, path, "litert_lm_" #name, &api->name)) return false;
  ENGINE_FUNCTIONS(FIND)
#undef FIND
  return true;
}
