// The timeline of a plan. The rules, and their numbers, are those of graphckpt/ir/peak.py, which is the reference.

#include "graph.h"

#include <algorithm>
#include <cstdint>
#include <new>
#include <vector>

namespace {

struct Block {
  int64_t size_bytes;
  int32_t storage;
  int32_t owner;
  int64_t first_step;
  int64_t last_step;
  int64_t seen;  // the last gathering that met this block: no block is gathered twice
};

// A value refers to references[begin .. begin + count) of the walk.
struct Value {
  int64_t begin = 0;
  int64_t count = 0;
  bool is_virtual = false;
};

// A fusible operation's only block, and what its step read.
struct Writer {
  int64_t block;
  Value read;
};

class Walk {
 public:
  Walk(const graphckpt_graph& graph, const uint8_t* materialised, int64_t step_count)
      : graph_(graph),
        materialised_(materialised),
        step_count_(step_count),
        latest_(graph.op_count()),
        workspace_bytes_(step_count) {
    blocks_.reserve(step_count);
    references_.reserve(4 * step_count);
  }

  void compute(int64_t step, int32_t op) {
    workspace_bytes_[step] = graph_.workspace_bytes[op];
    const Value read = gather(op, false);
    for (int64_t at = read.begin; at < read.begin + read.count; ++at) {
      Block& block = blocks_[references_[at]];
      block.last_step = std::max(block.last_step, step);
    }
    if (graph_.kind[op] == GRAPHCKPT_ALIAS) {
      latest_[op] = gather(op, true);
    } else if (materialised_ == nullptr || materialised_[op]) {
      const Value own = allocate(step, op);
      if (graph_.fusible[op] && graph_.storages.size(op) == 1 && own.count == 1) {
        writers_.push_back({references_[own.begin], read});
      }
      latest_[op] = own;
    } else {
      latest_[op] = read;
      latest_[op].is_virtual = true;
    }
  }

  // Rule 3. Two tangents in one storage share its block.
  void allocate_tangents(int64_t step) {
    std::vector<int64_t> block_of(graph_.storage_bytes.size(), -1);
    for (const int32_t op : graph_.tangents) {
      Value value{static_cast<int64_t>(references_.size()), 0, false};
      for (const int32_t* s = graph_.storages.begin(op); s != graph_.storages.end(op); ++s) {
        if (graph_.external[*s]) continue;
        if (block_of[*s] < 0) block_of[*s] = add_block(step, op, *s);
        references_.push_back(block_of[*s]);
        ++value.count;
      }
      latest_[op] = value;
    }
  }

  // Rule 6: what outputs refer to is never freed.
  void hold(const std::vector<int32_t>& outputs) {
    for (const int32_t op : outputs) {
      const Value& value = latest_[op];
      for (int64_t at = value.begin; at < value.begin + value.count; ++at) {
        blocks_[references_[at]].last_step = step_count_;
      }
    }
  }

  // Rule 7. Runs after all steps, in their order: only then is every last step known.
  void take_over(int64_t forward_count) {
    for (const Writer& writer : writers_) {
      const Block& own = blocks_[writer.block];
      for (int64_t at = writer.read.begin; at < writer.read.begin + writer.read.count; ++at) {
        Block& old = blocks_[references_[at]];
        if (old.last_step == own.first_step && old.size_bytes == own.size_bytes && !is_shared(old, forward_count)) {
          --old.last_step;
          break;
        }
      }
    }
  }

  void sum(int64_t forward_count, int64_t* live_bytes, uint8_t* held, graphckpt_peak* peak) const {
    std::vector<int64_t> change(step_count_ + 1, 0);
    for (const Block& block : blocks_) {
      change[block.first_step] += block.size_bytes;
      change[std::min(block.last_step + 1, step_count_)] -= block.size_bytes;
    }
    *peak = {0, step_count_ > 0 ? 0 : -1, 0, 0, -1};
    int64_t kept = 0;
    for (int64_t step = 0; step < step_count_; ++step) {
      kept += change[step];
      const int64_t live = kept + workspace_bytes_[step];
      live_bytes[step] = live;
      int64_t& of_phase = step < forward_count ? peak->forward_peak_bytes : peak->backward_peak_bytes;
      of_phase = std::max(of_phase, live);
      if (live > peak->peak_bytes) {
        peak->peak_bytes = live;
        peak->peak_step = step;
      }
    }
    if (held == nullptr) return;
    std::fill(held, held + graph_.op_count(), uint8_t{0});
    for (const Block& block : blocks_) {
      if (block.first_step <= peak->peak_step && peak->peak_step <= block.last_step && block.size_bytes > 0) {
        held[block.owner] = 1;
      }
    }
  }

 private:
  int64_t add_block(int64_t step, int32_t op, int32_t storage) {
    blocks_.push_back({graph_.storage_bytes[storage], storage, op, step, step, -1});
    return static_cast<int64_t>(blocks_.size()) - 1;
  }

  // Rule 2.
  Value allocate(int64_t step, int32_t op) {
    Value value{static_cast<int64_t>(references_.size()), 0, false};
    for (const int32_t* s = graph_.storages.begin(op); s != graph_.storages.end(op); ++s) {
      if (graph_.external[*s]) continue;
      references_.push_back(add_block(step, op, *s));
      ++value.count;
    }
    return value;
  }

  // The distinct blocks that the inputs of an operation refer to; for an alias only those it lives in (rules 4 and 5).
  Value gather(int32_t op, bool as_alias) {
    Value value{static_cast<int64_t>(references_.size()), 0, false};
    ++gathering_;
    for (const int32_t* source = graph_.inputs.begin(op); source != graph_.inputs.end(op); ++source) {
      const Value from = latest_[*source];
      if (as_alias && from.is_virtual) {
        if (!share_a_storage(op, *source)) continue;
        value.is_virtual = true;
      }
      for (int64_t at = from.begin; at < from.begin + from.count; ++at) {
        const int64_t index = references_[at];
        Block& block = blocks_[index];
        if (block.seen == gathering_) continue;
        if (as_alias && !from.is_virtual && !graph_.storages.has(op, block.storage)) continue;
        block.seen = gathering_;
        references_.push_back(index);
        ++value.count;
      }
    }
    return value;
  }

  bool is_shared(const Block& block, int64_t forward_count) const {
    const bool made_again = block.first_step >= forward_count && graph_.kind[block.owner] != GRAPHCKPT_TANGENT;
    return graph_.shared[block.storage] && !made_again;
  }

  bool share_a_storage(int32_t left, int32_t right) const {
    return std::any_of(graph_.storages.begin(left), graph_.storages.end(left),
                       [&](int32_t storage) { return graph_.storages.has(right, storage); });
  }

  const graphckpt_graph& graph_;
  const uint8_t* materialised_;
  int64_t step_count_;
  std::vector<Value> latest_;
  std::vector<int64_t> workspace_bytes_;
  std::vector<Block> blocks_;
  std::vector<int64_t> references_;
  std::vector<Writer> writers_;
  int64_t gathering_ = 0;
};

int32_t check(const graphckpt_graph& graph, const uint8_t* materialised, const int32_t* steps, int64_t count,
              int64_t offset, graphckpt_peak* peak) {
  for (int64_t step = 0; step < count; ++step) {
    const bool in_range = 0 <= steps[step] && steps[step] < graph.op_count();
    if (!in_range || graph.kind[steps[step]] == GRAPHCKPT_INPUT || graph.kind[steps[step]] == GRAPHCKPT_TANGENT) {
      peak->culprit = offset + step;
      return GRAPHCKPT_BAD_STEP;
    }
  }
  for (int32_t op = 0; materialised != nullptr && op < graph.op_count(); ++op) {
    if (graph.kind[op] == GRAPHCKPT_COMPUTE && !graph.fusible[op] && !materialised[op]) {
      peak->culprit = op;
      return GRAPHCKPT_NOT_FUSIBLE;
    }
  }
  return GRAPHCKPT_OK;
}

}  // namespace

int32_t graphckpt_abi_version(void) { return GRAPHCKPT_ABI_VERSION; }

graphckpt_graph* graphckpt_graph_new(const graphckpt_graph_arrays* arrays) {
  try {
    return new graphckpt_graph(*arrays);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void graphckpt_graph_free(graphckpt_graph* graph) { delete graph; }

int32_t graphckpt_timeline(const graphckpt_graph* graph, const uint8_t* materialised, const int32_t* forward,
                           int64_t forward_count, const int32_t* backward, int64_t backward_count,
                           int64_t* live_bytes, uint8_t* held, graphckpt_peak* peak) {
  int32_t status = check(*graph, materialised, forward, forward_count, 0, peak);
  if (status == GRAPHCKPT_OK) status = check(*graph, nullptr, backward, backward_count, forward_count, peak);
  if (status != GRAPHCKPT_OK) return status;
  try {
    Walk walk(*graph, materialised, forward_count + backward_count);
    for (int64_t step = 0; step < forward_count; ++step) walk.compute(step, forward[step]);
    walk.hold(graph->forward_outputs);
    if (backward_count > 0) walk.allocate_tangents(forward_count);
    for (int64_t step = 0; step < backward_count; ++step) walk.compute(forward_count + step, backward[step]);
    walk.hold(graph->backward_outputs);
    walk.take_over(forward_count);
    walk.sum(forward_count, live_bytes, held, peak);
    return GRAPHCKPT_OK;
  } catch (const std::bad_alloc&) {
    return GRAPHCKPT_OUT_OF_MEMORY;
  }
}
