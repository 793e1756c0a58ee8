// Streams and events. What they order is known here; when the work runs, to timeline.cpp.
#include <algorithm>
#include <cstdlib>

#include "calls.h"

namespace {

bool is_pending(const Event& event) { return event.record && !event.record->done; }

// A program that polls gets somewhere; one that takes the first answer for granted is found out.
bool answers_not_ready(int& answers) {
  long limit = number("not_ready");
  if (limit >= 0 && answers >= limit) return false;
  answers++;
  return true;
}

Event* event_of(Context& context, Event* handle) { return found(context.events, handle); }

CUresult wait_outside_capture(Stream& stream, const Event& event) {
  if (is_pending(event)) enqueue(stream, nullptr, event.record);
  return SUCCESS;
}

bool has_work_as_seen_from(const Stream& stream) {
  if (!stream.queue.empty()) return true;
  const auto& streams = stream.context->streams;
  return stream.is_legacy() && std::any_of(streams.begin(), streams.end(), [](const auto& other) {
           return other->is_blocking() && !other->queue.empty();
         });
}

// The legacy stream is done when all it would come after is done.
CUresult finish_as_seen_from(Stream& stream) {
  return stream.is_legacy() ? finish(enqueue(stream, nullptr)) : finish(stream);
}

CUresult elapsed(float* milliseconds, const Event& start, const Event& end) {
  for (const Event* event : {&start, &end}) {
    if (event->capture) return CAPTURED_EVENT;
    if (!event->record || event->flags & EVENT_DISABLE_TIMING) return INVALID_HANDLE;
  }
  if (is_pending(start) || is_pending(end)) return NOT_READY;
  std::chrono::duration<float, std::milli> between = end.record->finished - start.record->finished;
  *milliseconds = between.count();
  return SUCCESS;
}

}  // namespace

Stream* stream_of(Stream* handle) {
  Context& context = *current_context();
  if (!handle || handle == LEGACY_STREAM || handle == PER_THREAD_STREAM)
    return context.legacy.get();
  for (const auto& stream : context.streams)
    if (stream.get() == handle && !stream->is_destroyed) return handle;
  return nullptr;
}

CUresult submit(Stream* handle, Action run) {
  Stream* stream = stream_of(handle);
  if (!stream) return INVALID_HANDLE;
  if (stream->capture) return append(*stream, std::move(run));
  if (stream->is_legacy())
    if (CUresult code = refuse_legacy_while_capturing(*stream->context)) return code;
  std::shared_ptr<Work> work = enqueue(*stream, std::move(run));
  return setting("streams") == "eager" ? finish(work) : SUCCESS;
}

// With CUDA_LAUNCH_BLOCKING=1 the launch itself reports a kernel's error, as with NVIDIA's.
CUresult submit_kernel(Stream* handle, Action run, std::shared_ptr<Outputs> outputs) {
  if (CUresult code = submit(handle, std::move(run))) return code;
  if (Stream* found = stream_of(handle)) {
    if (found->capture)
      found->capture->nodes.back().outputs = outputs;
    else if (!found->queue.empty())
      found->queue.back()->outputs = outputs;
  }
  const char* blocking = getenv("CUDA_LAUNCH_BLOCKING");
  Stream& stream = *stream_of(handle);
  bool is_blocking = blocking && *blocking == '1' && !stream.capture;
  return is_blocking ? finish(stream) : SUCCESS;
}

std::shared_ptr<Outputs> outputs_before(const Stream& stream) {
  if (!stream.capture) return stream.queue.empty() ? nullptr : stream.queue.back()->outputs;
  return stream.tips.size() == 1 ? stream.capture->nodes[stream.tips[0]].outputs : nullptr;
}

DRIVER_API CUresult cuStreamCreate(Stream** stream, unsigned flags) {
  return in_context("cuStreamCreate", [&](Context& context) -> CUresult {
    if (!stream || flags > STREAM_NON_BLOCKING) return INVALID_VALUE;
    context.streams.push_back(std::make_unique<Stream>());
    *stream = context.streams.back().get();
    (*stream)->context = &context;
    (*stream)->flags = flags;
    return SUCCESS;
  });
}

DRIVER_API CUresult cuStreamCreateWithPriority(Stream** stream, unsigned flags, int) {
  return cuStreamCreate(stream, flags);
}

DRIVER_API CUresult cuStreamDestroy_v2(Stream* handle) {
  return in_context("cuStreamDestroy", [&](Context&) -> CUresult {
    Stream* stream = stream_of(handle);
    if (!stream || stream->is_legacy()) return INVALID_HANDLE;
    if (stream->capture) return invalidate(*stream->capture, STREAM_CAPTURE_UNSUPPORTED);
    stream->is_destroyed = true;
    return SUCCESS;
  });
}

DRIVER_API CUresult cuStreamSynchronize(Stream* handle) {
  return in_context("cuStreamSynchronize", [&](Context&) -> CUresult {
    Stream* stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    if (stream->capture) return invalidate(*stream->capture, STREAM_CAPTURE_UNSUPPORTED);
    if (CUresult code = refuse_while_capturing()) return code;
    return finish_as_seen_from(*stream);
  });
}

DRIVER_API CUresult cuStreamQuery(Stream* handle) {
  return in_context("cuStreamQuery", [&](Context&) -> CUresult {
    Stream* stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    if (stream->capture) return invalidate(*stream->capture, STREAM_CAPTURE_UNSUPPORTED);
    if (CUresult code = refuse_while_capturing()) return code;
    if (!has_work_as_seen_from(*stream)) return SUCCESS;
    if (answers_not_ready(stream->not_ready_answers)) return NOT_READY;
    return finish_as_seen_from(*stream);
  });
}

DRIVER_API CUresult cuStreamWaitEvent(Stream* handle, Event* event, unsigned) {
  return in_context("cuStreamWaitEvent", [&](Context& context) -> CUresult {
    Stream* stream = stream_of(handle);
    if (!stream || !event_of(context, event)) return INVALID_HANDLE;
    if (stream->capture || event->capture) return wait_in_capture(*stream, *event);
    return wait_outside_capture(*stream, *event);
  });
}

DRIVER_API CUresult cuEventCreate(Event** event, unsigned flags) {
  return in_context("cuEventCreate", [&](Context& context) -> CUresult {
    if (!event || flags > EVENT_FLAGS_KNOWN) return INVALID_VALUE;
    auto made = std::make_unique<Event>();
    made->flags = flags;
    *event = made.get();
    context.events.insert(std::move(made));
    return SUCCESS;
  });
}

DRIVER_API CUresult cuEventDestroy_v2(Event* event) {
  return in_context("cuEventDestroy", [&](Context& context) -> CUresult {
    if (!event_of(context, event)) return INVALID_HANDLE;
    erase(context.events, event);
    return SUCCESS;
  });
}

DRIVER_API CUresult cuEventRecord(Event* event, Stream* handle) {
  return in_context("cuEventRecord", [&](Context& context) -> CUresult {
    Stream* stream = stream_of(handle);
    if (!stream || !event_of(context, event)) return INVALID_HANDLE;
    event->record = nullptr;
    event->capture = nullptr;
    event->not_ready_answers = 0;
    if (stream->capture) {
      record_in_capture(*stream, *event);
      return SUCCESS;
    }
    if (stream->is_legacy())
      if (CUresult code = refuse_legacy_while_capturing(context)) return code;
    event->record = enqueue(*stream, nullptr);
    return setting("streams") == "eager" ? finish(event->record) : SUCCESS;
  });
}

DRIVER_API CUresult cuEventQuery(Event* event) {
  return in_context("cuEventQuery", [&](Context& context) -> CUresult {
    if (!event_of(context, event)) return INVALID_HANDLE;
    if (event->capture) return CAPTURED_EVENT;
    if (CUresult code = refuse_while_capturing()) return code;
    if (!is_pending(*event)) return SUCCESS;
    return answers_not_ready(event->not_ready_answers) ? NOT_READY : finish(event->record);
  });
}

DRIVER_API CUresult cuEventSynchronize(Event* event) {
  return in_context("cuEventSynchronize", [&](Context& context) -> CUresult {
    if (!event_of(context, event)) return INVALID_HANDLE;
    if (event->capture) return CAPTURED_EVENT;
    if (CUresult code = refuse_while_capturing()) return code;
    return is_pending(*event) ? finish(event->record) : SUCCESS;
  });
}

DRIVER_API CUresult cuEventElapsedTime(float* milliseconds, Event* start, Event* end) {
  return in_context("cuEventElapsedTime", [&](Context& context) -> CUresult {
    if (!milliseconds) return INVALID_VALUE;
    if (!event_of(context, start) || !event_of(context, end)) return INVALID_HANDLE;
    return elapsed(milliseconds, *start, *end);
  });
}

DRIVER_API CUresult cuEventElapsedTime_v2(float* milliseconds, Event* start, Event* end) {
  return cuEventElapsedTime(milliseconds, start, end);
}
