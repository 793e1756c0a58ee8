// The prologue of every driver call: lock, count, injected faults, and the states in which the real
// driver refuses all calls (a forked child, before cuInit, no context, a dead context).
#pragma once

#include <unistd.h>

#include "driver.h"

enum class Needs { NOTHING, DRIVER, CONTEXT };

inline CUresult refusal(const char* name, Needs needs) {
  Driver& self = driver();
  self.calls[name]++;
  if (needs != Needs::NOTHING && self.process == 0) return NOT_INITIALIZED;
  if (needs == Needs::CONTEXT) {
    Context* context = current_context();
    if (!context) return INVALID_CONTEXT;
    if (context->dead) return context->dead;
    if (!context->is_active) return CONTEXT_IS_DESTROYED;
  }
  return injected(name);
}

template <class Body>
CUresult call(const char* name, Needs needs, Body body) {
  // Checked before the lock, which another thread may have held at the fork.
  if (driver().process && driver().process != getpid()) return NOT_INITIALIZED;
  std::lock_guard<std::recursive_mutex> holding(driver().lock);
  if (CUresult code = refusal(name, needs)) return code;
  return body();
}

// A call that needs a current context that is not lost, as most do.
template <class Body>
CUresult in_context(const char* name, Body body) {
  return call(name, Needs::CONTEXT, [&] { return body(*current_context()); });
}

// As above, for calls that stream capture forbids because a replay would not repeat them.
template <class Body>
CUresult outside_capture(const char* name, Body body) {
  return in_context(name, [&](Context& context) -> CUresult {
    if (CUresult code = refuse_while_capturing()) return code;
    return body(context);
  });
}
