// Stream capture: calls become nodes instead of work, events join streams to a capture, and what
// the real driver forbids meanwhile is refused with its code and invalidates the capture.
//
// The rules are those of cuStreamBeginCapture and cuThreadExchangeStreamCaptureMode in NVIDIA's
// documentation of the driver.
#include <algorithm>

#include "calls.h"

namespace {

thread_local CaptureMode interaction = CAPTURE_GLOBAL;

bool forbids(const Capture& capture) {
  if (interaction == CAPTURE_RELAXED) return false;
  if (capture.thread == std::this_thread::get_id()) return capture.mode != CAPTURE_RELAXED;
  return interaction == CAPTURE_GLOBAL && capture.mode == CAPTURE_GLOBAL;
}

void add_tips(std::vector<size_t>& tips, const std::vector<size_t>& more) {
  tips.insert(tips.end(), more.begin(), more.end());
  std::sort(tips.begin(), tips.end());
  tips.erase(std::unique(tips.begin(), tips.end()), tips.end());
}

// Every node that has run once the tips have.
std::set<size_t> reached_from(const Capture& capture, std::vector<size_t> tips) {
  std::set<size_t> reached;
  while (!tips.empty()) {
    size_t node = tips.back();
    tips.pop_back();
    if (!reached.insert(node).second) continue;
    const auto& after = capture.nodes[node].after;
    tips.insert(tips.end(), after.begin(), after.end());
  }
  return reached;
}

bool is_joined(const Capture& capture) {
  std::set<size_t> reached = reached_from(capture, capture.origin->tips);
  auto is_reached = [&](size_t tip) { return reached.count(tip) > 0; };
  return std::all_of(capture.streams.begin(), capture.streams.end(), [&](const Stream* stream) {
    return std::all_of(stream->tips.begin(), stream->tips.end(), is_reached);
  });
}

void end(std::shared_ptr<Capture> capture) {
  capture->has_ended = true;
  for (Stream* stream : capture->streams) {
    stream->capture = nullptr;
    stream->tips.clear();
  }
  auto& captures = driver().captures;
  captures.erase(std::remove(captures.begin(), captures.end(), capture), captures.end());
}

void begin(Stream& stream, CaptureMode mode) {
  auto capture = std::make_shared<Capture>();
  capture->mode = mode;
  capture->thread = std::this_thread::get_id();
  capture->origin = &stream;
  capture->streams = {&stream};
  stream.capture = capture;
  stream.tips.clear();
  driver().captures.push_back(capture);
}

CUresult graph_from(std::shared_ptr<Capture> capture, Graph** graph) {
  CUresult code = capture->is_invalid   ? STREAM_CAPTURE_INVALIDATED
                  : is_joined(*capture) ? SUCCESS
                                        : STREAM_CAPTURE_UNJOINED;
  end(capture);
  if (code) return failed(code, "cuStreamEndCapture: no graph was made");
  auto made = std::make_unique<Graph>();
  made->nodes = std::move(capture->nodes);
  *graph = made.get();
  driver().graphs.insert(std::move(made));
  return SUCCESS;
}

bool a_blocking_stream_captures(const Context& context) {
  return std::any_of(context.streams.begin(), context.streams.end(),
                     [](const auto& stream) { return stream->is_blocking() && stream->capture; });
}

}  // namespace

CUresult invalidate(Capture& capture, CUresult code) {
  capture.is_invalid = true;
  return failed(code, "a call that stream capture forbids invalidated the capture");
}

CUresult refuse_while_capturing() {
  CUresult code = SUCCESS;
  for (const auto& capture : driver().captures)
    if (forbids(*capture)) code = invalidate(*capture, STREAM_CAPTURE_UNSUPPORTED);
  return code;
}

CUresult refuse_legacy_while_capturing(Context& context) {
  if (!a_blocking_stream_captures(context)) return SUCCESS;
  for (const auto& stream : context.streams)
    if (stream->is_blocking() && stream->capture) stream->capture->is_invalid = true;
  return failed(STREAM_CAPTURE_IMPLICIT,
                "the legacy stream was used while a blocking one captures");
}

CUresult append(Stream& stream, Action run) {
  Capture& capture = *stream.capture;
  if (capture.is_invalid) return STREAM_CAPTURE_INVALIDATED;
  capture.nodes.push_back({std::move(run), stream.tips});
  stream.tips = {capture.nodes.size() - 1};
  return SUCCESS;
}

void record_in_capture(Stream& stream, Event& event) {
  event.capture = stream.capture;
  event.tips = stream.tips;
}

CUresult wait_in_capture(Stream& stream, Event& event) {
  if (!event.capture) return invalidate(*stream.capture, STREAM_CAPTURE_ISOLATION);
  if (event.capture->has_ended) return CAPTURED_EVENT;
  if (stream.is_legacy()) return invalidate(*event.capture, STREAM_CAPTURE_IMPLICIT);
  if (stream.capture && stream.capture != event.capture) {
    stream.capture->is_invalid = true;
    return invalidate(*event.capture, STREAM_CAPTURE_MERGE);
  }
  stream.capture = event.capture;
  stream.capture->streams.insert(&stream);
  add_tips(stream.tips, event.tips);
  return SUCCESS;
}

void abandon_captures(Context* context) {
  auto captures = driver().captures;  // a copy: end() takes them out of the original
  for (const auto& capture : captures)
    if (!context || capture->origin->context == context) end(capture);
}

DRIVER_API CUresult cuStreamBeginCapture_v2(Stream* handle, int mode) {
  return in_context("cuStreamBeginCapture", [&](Context&) -> CUresult {
    Stream* stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    if (mode < CAPTURE_GLOBAL || mode > CAPTURE_RELAXED) return INVALID_VALUE;
    if (stream->is_legacy()) return STREAM_CAPTURE_UNSUPPORTED;
    if (stream->capture) return ILLEGAL_STATE;
    begin(*stream, static_cast<CaptureMode>(mode));
    return SUCCESS;
  });
}

DRIVER_API CUresult cuStreamEndCapture(Stream* handle, Graph** graph) {
  return in_context("cuStreamEndCapture", [&](Context&) -> CUresult {
    Stream* stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    if (!graph) return INVALID_VALUE;
    *graph = nullptr;
    std::shared_ptr<Capture> capture = stream->capture;
    if (!capture) return ILLEGAL_STATE;
    if (capture->origin != stream) return invalidate(*capture, STREAM_CAPTURE_UNMATCHED);
    if (capture->mode != CAPTURE_RELAXED && capture->thread != std::this_thread::get_id())
      return STREAM_CAPTURE_WRONG_THREAD;
    return graph_from(capture, graph);
  });
}

DRIVER_API CUresult cuStreamIsCapturing(Stream* handle, int* status) {
  return in_context("cuStreamIsCapturing", [&](Context& context) -> CUresult {
    Stream* stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    if (!status) return INVALID_VALUE;
    if (stream->is_legacy() && a_blocking_stream_captures(context)) return STREAM_CAPTURE_IMPLICIT;
    *status = !stream->capture              ? CAPTURE_NONE
              : stream->capture->is_invalid ? CAPTURE_INVALIDATED
                                            : CAPTURE_ACTIVE;
    return SUCCESS;
  });
}

DRIVER_API CUresult cuThreadExchangeStreamCaptureMode(int* mode) {
  return call("cuThreadExchangeStreamCaptureMode", Needs::DRIVER, [&]() -> CUresult {
    if (!mode || *mode < CAPTURE_GLOBAL || *mode > CAPTURE_RELAXED) return INVALID_VALUE;
    CaptureMode previous = interaction;
    interaction = static_cast<CaptureMode>(*mode);
    *mode = previous;
    return SUCCESS;
  });
}
