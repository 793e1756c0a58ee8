// When queued work runs: only when something waits for it, and then in an order of choice.
//
//   lazy    what is waited for, and what that has to come after, and nothing else
//   random  any work that may run, drawn by the seed, until what is waited for is done
//   issued  in the order of the calls: the kindest to wrong programs
//   eager   at the call itself
//
// Work in a stream runs in order; a wait comes after its event; and the legacy stream and the
// blocking streams of its context come after one another's earlier work.
#include <algorithm>

#include "driver.h"

bool Stream::is_legacy() const { return context->legacy.get() == this; }

namespace {

Work* front_before(const Stream& stream, uint64_t sequence) {
  if (stream.queue.empty() || stream.queue.front()->sequence >= sequence) return nullptr;
  return stream.queue.front().get();
}

// Something unfinished that this work, first in its stream, has to come after.
Work* obstacle(const Work& work) {
  if (work.after && !work.after->done) return work.after->stream->queue.front().get();
  const Context& context = *work.stream->context;
  if (!work.stream->is_legacy())
    return work.stream->is_blocking() ? front_before(*context.legacy, work.sequence) : nullptr;
  for (const auto& stream : context.streams)
    if (stream->is_blocking())
      if (Work* earlier = front_before(*stream, work.sequence)) return earlier;
  return nullptr;
}

std::vector<Work*> fronts(const Context& context) {
  std::vector<Work*> result;
  if (!context.legacy->queue.empty()) result.push_back(context.legacy->queue.front().get());
  for (const auto& stream : context.streams)
    if (!stream->queue.empty()) result.push_back(stream->queue.front().get());
  return result;
}

Work* first_needed_by(Work* work) {
  work = work->stream->queue.front().get();
  while (Work* before = obstacle(*work)) work = before;
  return work;
}

Work* first_issued(const Context& context) {
  std::vector<Work*> candidates = fronts(context);
  auto is_earlier = [](Work* left, Work* right) { return left->sequence < right->sequence; };
  return *std::min_element(candidates.begin(), candidates.end(), is_earlier);
}

Work* drawn(const Context& context) {
  std::vector<Work*> candidates = fronts(context);
  Work* any = candidates[driver().random() % candidates.size()];
  return first_needed_by(any);
}

Work* next_towards(Work* target) {
  std::string order = setting("streams");
  if (order == "random") return drawn(*target->stream->context);
  if (order == "issued") return first_issued(*target->stream->context);
  return first_needed_by(target);
}

void mark_done(Work& work) {
  work.done = true;
  work.finished = std::chrono::steady_clock::now();
  work.run = nullptr;  // lets go of staged bytes and graphs
  work.after = nullptr;
}

CUresult execute(Stream& stream) {
  std::shared_ptr<Work> work = stream.queue.front();
  CUresult code = work->run ? work->run() : SUCCESS;
  mark_done(*work);
  stream.queue.pop_front();
  return code;
}

void drop_work(Stream& stream) {
  for (const auto& work : stream.queue) mark_done(*work);
  stream.queue.clear();
}

void bury_destroyed(Context& context) {
  auto& streams = context.streams;
  auto is_gone = [](const auto& stream) { return stream->is_destroyed && stream->queue.empty(); };
  streams.erase(std::remove_if(streams.begin(), streams.end(), is_gone), streams.end());
}

}  // namespace

std::shared_ptr<Work> enqueue(Stream& stream, Action run, std::shared_ptr<Work> after) {
  auto work = std::make_shared<Work>();
  work->stream = &stream;
  work->sequence = ++driver().sequence;
  work->run = std::move(run);
  work->after = std::move(after);
  stream.queue.push_back(work);
  stream.not_ready_answers = 0;
  return work;
}

// The target is held here: its queue lets go of it when it has run.
CUresult finish(std::shared_ptr<Work> target) {
  while (!target->done) {
    Stream& stream = *next_towards(target.get())->stream;
    CUresult code = execute(stream);
    if (is_sticky(code)) stream.context->dead = code;
    if (stream.context->dead) drop_work(*stream.context);
    if (code) return code;
  }
  return SUCCESS;
}

CUresult finish(Stream& stream) {
  return stream.queue.empty() ? SUCCESS : finish(stream.queue.back());
}

CUresult finish(Context& context) {
  while (true) {
    std::vector<Work*> pending = fronts(context);
    if (pending.empty()) break;
    // The newest stream first: the unlikeliest order to have been counted on.
    if (CUresult code = finish(*pending.back()->stream)) return code;
  }
  bury_destroyed(context);
  return SUCCESS;
}

void drop_work(Context& context) {
  if (context.legacy) drop_work(*context.legacy);
  for (const auto& stream : context.streams) drop_work(*stream);
}

// An order in which the nodes of a graph may run: by the seed, as captured, or – lazily – each
// branch to its end, the last one first.
std::vector<size_t> order_of(const std::vector<GraphNode>& nodes) {
  std::vector<size_t> order, ready, missing(nodes.size());
  std::vector<std::vector<size_t>> followers(nodes.size());
  for (size_t node = 0; node < nodes.size(); node++) {
    missing[node] = nodes[node].after.size();
    for (size_t before : nodes[node].after) followers[before].push_back(node);
    if (missing[node] == 0) ready.push_back(node);
  }
  std::string preference = setting("streams");
  while (!ready.empty()) {
    auto chosen = ready.end() - 1;
    if (preference == "random") chosen = ready.begin() + driver().random() % ready.size();
    if (preference == "issued") chosen = std::min_element(ready.begin(), ready.end());
    size_t node = *chosen;
    ready.erase(chosen);
    order.push_back(node);
    for (size_t follower : followers[node])
      if (--missing[follower] == 0) ready.push_back(follower);
  }
  return order;
}
