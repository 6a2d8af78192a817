// The backward pass of a plan: what it misses is computed just before it is read. graphckpt/solve/backward.py is the reference.

#include "graph.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <new>
#include <vector>

namespace {

constexpr int32_t kNone = -1;
// No segment: theirs are -1 and up.
constexpr int32_t kNever = std::numeric_limits<int32_t>::min();

struct Facts {
  const uint8_t* at_hand;
  const uint8_t* once;
  const uint8_t* shared;
  const int32_t* segment;
};

class Backward {
 public:
  Backward(const graphckpt_graph& graph, const Facts& facts) : graph_(graph), facts_(facts), made_in_(graph.op_count(), kNever) {}

  int32_t segment_of(int32_t op, int32_t current) const {
    int32_t latest = kNone;
    for (const int32_t* read = graph_.inputs.begin(op); read != graph_.inputs.end(op); ++read) {
      latest = std::max(latest, facts_.segment[*read]);
    }
    return latest == kNone ? current : latest;
  }

  // Returns the culprit, or kNone. Depth first without recursion: graphs are as deep as the model.
  int32_t demand(int32_t value, int32_t segment) {
    stack_.push_back({value, false});
    while (!stack_.empty()) {
      const Visit visit = stack_.back();
      stack_.pop_back();
      if (is_available(visit.op, segment)) continue;
      if (visit.inputs_done) {
        steps_.push_back(visit.op);
        made_in_[visit.op] = segment;
        continue;
      }
      if (facts_.once[visit.op]) return visit.op;
      stack_.push_back({visit.op, true});
      for (const int32_t* source = graph_.inputs.end(visit.op); source != graph_.inputs.begin(visit.op);) {
        stack_.push_back({*--source, false});
      }
    }
    return kNone;
  }

  int32_t demand_inputs(int32_t op, int32_t segment) {
    for (const int32_t* read = graph_.inputs.begin(op); read != graph_.inputs.end(op); ++read) {
      const int32_t culprit = demand(*read, segment);
      if (culprit != kNone) return culprit;
    }
    return kNone;
  }

  void compute(int32_t op) { steps_.push_back(op); }

  const std::vector<int32_t>& steps() const { return steps_; }

 private:
  struct Visit {
    int32_t op;
    bool inputs_done;
  };

  bool is_available(int32_t op, int32_t segment) const {
    if (facts_.at_hand[op]) return true;
    return made_in_[op] != kNever && (made_in_[op] == segment || facts_.shared[op]);
  }

  const graphckpt_graph& graph_;
  const Facts& facts_;
  std::vector<int32_t> made_in_;
  std::vector<int32_t> steps_;
  std::vector<Visit> stack_;
};

}  // namespace

int32_t graphckpt_demand(const graphckpt_graph* graph, const uint8_t* at_hand, const uint8_t* once, const uint8_t* shared,
                         const int32_t* segment, int32_t last_segment, const int32_t* backward, int64_t backward_count,
                         int32_t* steps, int64_t capacity, int64_t* count) {
  for (int64_t at = 0; at < backward_count; ++at) {
    if (backward[at] < 0 || backward[at] >= graph->op_count()) {
      *count = at;
      return GRAPHCKPT_BAD_STEP;
    }
  }
  try {
    const Facts facts{at_hand, once, shared, segment};
    Backward work(*graph, facts);
    int32_t current = last_segment;
    int32_t culprit = kNone;
    for (int64_t at = 0; at < backward_count && culprit == kNone; ++at) {
      current = work.segment_of(backward[at], current);
      culprit = work.demand_inputs(backward[at], current);
      work.compute(backward[at]);
    }
    for (auto out = graph->backward_outputs.begin(); out != graph->backward_outputs.end() && culprit == kNone; ++out) {
      culprit = work.demand(*out, current);
    }
    if (culprit != kNone) {
      *count = culprit;
      return GRAPHCKPT_RUNS_ONCE;
    }
    *count = static_cast<int64_t>(work.steps().size());
    std::copy_n(work.steps().begin(), std::min(*count, capacity), steps);
    return GRAPHCKPT_OK;
  } catch (const std::bad_alloc&) {
    return GRAPHCKPT_OUT_OF_MEMORY;
  }
}
