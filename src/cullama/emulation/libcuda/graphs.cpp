// Graphs: made by a capture, instantiated once and launched any number of times.
#include <algorithm>

#include "calls.h"

namespace {

// Roughly what a driver takes of the device for an instantiated graph, and for each node of it.
const size_t GRAPH_BYTES = 64 << 10, NODE_BYTES = 4 << 10;

CUresult run_all(const std::vector<GraphNode>& nodes) {
  for (size_t node : order_of(nodes))
    if (CUresult code = nodes[node].run()) return code;
  return SUCCESS;
}

}  // namespace

DRIVER_API CUresult cuGraphInstantiateWithFlags(GraphExecution** execution, Graph* graph,
                                                unsigned long long) {
  return in_context("cuGraphInstantiate", [&](Context& context) -> CUresult {
    if (!execution) return INVALID_VALUE;
    if (!found(driver().graphs, graph)) return INVALID_VALUE;
    auto made = std::make_unique<GraphExecution>();
    made->owner = &context;
    made->bytes = GRAPH_BYTES + graph->nodes.size() * NODE_BYTES;
    size_t total = number_of_device("memory_bytes", context.device);
    if (context.used + made->bytes > total)
      return failed(OUT_OF_MEMORY, "cuGraphInstantiate: no memory left for the graph");
    context.used += made->bytes;
    made->nodes = std::make_shared<const std::vector<GraphNode>>(graph->nodes);
    *execution = made.get();
    driver().executions.insert(std::move(made));
    return SUCCESS;
  });
}

DRIVER_API CUresult cuGraphUpload(GraphExecution* execution, Stream* stream) {
  return in_context("cuGraphUpload", [&](Context&) -> CUresult {
    if (!found(driver().executions, execution)) return INVALID_VALUE;
    return stream_of(stream) ? SUCCESS : INVALID_HANDLE;
  });
}

DRIVER_API CUresult cuGraphLaunch(GraphExecution* execution, Stream* stream) {
  return in_context("cuGraphLaunch", [&](Context&) -> CUresult {
    if (!found(driver().executions, execution)) return INVALID_VALUE;
    // The nodes are shared, so the graph may be destroyed while a launch is still queued.
    return submit(stream, [nodes = execution->nodes] { return run_all(*nodes); });
  });
}

DRIVER_API CUresult cuGraphExecDestroy(GraphExecution* execution) {
  return in_context("cuGraphExecDestroy", [&](Context&) -> CUresult {
    if (!found(driver().executions, execution)) return INVALID_VALUE;
    execution->owner->used -= std::min(execution->owner->used, execution->bytes);
    erase(driver().executions, execution);
    return SUCCESS;
  });
}

DRIVER_API CUresult cuGraphDestroy(Graph* graph) {
  return in_context("cuGraphDestroy", [&](Context&) -> CUresult {
    if (!found(driver().graphs, graph)) return INVALID_VALUE;
    erase(driver().graphs, graph);
    return SUCCESS;
  });
}

DRIVER_API CUresult cuGraphGetNodes(Graph* graph, GraphNode** nodes, size_t* count) {
  return in_context("cuGraphGetNodes", [&](Context&) -> CUresult {
    if (!found(driver().graphs, graph) || !count) return INVALID_VALUE;
    size_t existing = graph->nodes.size();
    if (nodes) {
      for (size_t i = 0; i < *count; i++) nodes[i] = i < existing ? &graph->nodes[i] : nullptr;
      existing = std::min(existing, *count);
    }
    *count = existing;
    return SUCCESS;
  });
}
