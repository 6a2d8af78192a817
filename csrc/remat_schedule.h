// A schedule with repeats: which copy of a value each step reads, and from that the bytes live at each step.
//
// A copy of a value lives from its step to the last step that reads it before the value is computed again. Each node keeps its
// events in order: the steps that compute it and the steps that read it. Putting a step into the schedule or taking one out
// changes one event of its own node and one of each input, and with each at most one stretch of the timeline.
// A step that writes over an input adds nothing to what is live; scratch space is live at its own step alone.
#ifndef GRAPHCKPT_REMAT_SCHEDULE_H
#define GRAPHCKPT_REMAT_SCHEDULE_H

#include "graph.h"
#include "remat_timeline.h"

#include <cstdint>
#include <vector>

namespace graphckpt::remat {

struct Instance {
  std::vector<double> cost;
  std::vector<double> size;
  std::vector<uint8_t> once;
  Rows inputs;
  std::vector<double> scratch;
  std::vector<uint8_t> writes_over;
  std::vector<uint8_t> shared;

  explicit Instance(const graphckpt_remat_instance& from)
      : cost(from.cost, from.cost + from.node_count),
        size(from.size_bytes, from.size_bytes + from.node_count),
        once(from.once, from.once + from.node_count),
        inputs(from.input_offsets, from.inputs, from.node_count),
        scratch(from.scratch_bytes, from.scratch_bytes + from.node_count),
        writes_over(from.writes_over, from.writes_over + from.node_count),
        shared(from.shared, from.shared + from.node_count) {}

  int32_t count() const { return static_cast<int32_t>(cost.size()); }
};

class Schedule {
 public:
  Schedule(const Instance& instance, int32_t capacity, double budget);

  // Computes `node` once more, right after the step `place` (end(): first of all). Reads that find no copy wait for one.
  int32_t put(int32_t node, int32_t place);
  // The step is gone; its number is given to the next one that is put.
  void take(int32_t step);
  // Empties it, then puts a whole schedule.
  void load(const std::vector<int32_t>& nodes);
  std::vector<int32_t> nodes() const;

  const Instance& instance() const { return instance_; }
  Timeline& line() { return line_; }
  const Timeline& line() const { return line_; }
  double cost() const { return cost_; }
  bool is_full() const { return free_.empty(); }

  int32_t node(int32_t step) const { return node_[step]; }
  int32_t copies(int32_t node) const { return copies_[node]; }
  const std::vector<int32_t>& events(int32_t node) const { return events_[node]; }
  bool is_copy(int32_t node, int32_t step) const { return node_[step] == node; }
  // Where in events(node) this step stands.
  int32_t index_of(int32_t node, int32_t step) const;
  // Where in events(node) the first one behind this step stands, which may be no event of it.
  int32_t upper(int32_t node, int32_t step) const;
  // Steps there are, in no order; nodes with two copies or more, in no order.
  const std::vector<int32_t>& steps() const { return steps_.members; }
  const std::vector<int32_t>& repeated() const { return repeated_.members; }
  // Whether the copy that this step made is read by none.
  bool is_unread(int32_t step) const;

 private:
  // A set of small numbers that can be drawn from.
  struct Members {
    std::vector<int32_t> members;
    std::vector<int32_t> where;
    explicit Members(int32_t capacity) : where(capacity, -1) { members.reserve(capacity); }
    void insert(int32_t value);
    void erase(int32_t value);
  };

  bool has_copy_before(int32_t node, int32_t index) const;
  int32_t last_read(int32_t node, int32_t index) const;
  void put_copy(int32_t node, int32_t step);
  void take_copy(int32_t node, int32_t step);
  void put_read(int32_t node, int32_t step);
  void take_read(int32_t node, int32_t step);
  void add_between(int32_t after, int32_t before, double bytes);
  bool may_write_over(int32_t reader, int32_t node) const;
  void end_at(int32_t node, int32_t step, int32_t copies);
  double live_behind(int32_t step) const;

  const Instance& instance_;
  Timeline line_;
  double cost_ = 0;
  std::vector<int32_t> node_;                 // by step
  std::vector<double> ending_;                // by step: bytes of the copies whose last reader it is
  std::vector<int32_t> writable_;             // by step: how many of those copies it may write over
  std::vector<std::vector<int32_t>> events_;  // by node
  std::vector<int32_t> copies_;               // by node
  std::vector<int32_t> free_;
  Members steps_;
  Members repeated_;
};

}  // namespace graphckpt::remat

#endif
