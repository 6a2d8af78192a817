// A proof for any schedule: the search backwards over sets of live values. graphckpt/solve/remat/proof.py says why it is one.

#include "graph.h"
#include "remat_clock.h"
#include "remat_cover.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <new>
#include <queue>
#include <vector>

namespace {

using graphckpt::Rows;
using graphckpt::remat::Clock;
using graphckpt::remat::Cover;

constexpr int32_t kNone = -1;

struct Entry {
  int64_t bound;     // of what computing again costs, behind and before
  int32_t missing;   // nodes still to be computed for the first time: fewer first
  int32_t state;
  bool operator<(const Entry& other) const {
    if (bound != other.bound) return bound > other.bound;
    if (missing != other.missing) return missing > other.missing;
    return state < other.state;
  }
};

class States {
 public:
  States(const graphckpt_remat_instance& from, const graphckpt_remat_options& options, int64_t most)
      : count_(from.node_count),
        words_((from.node_count + 63) / 64),
        cost_(from.cost, from.cost + from.node_count),
        size_(from.size_bytes, from.size_bytes + from.node_count),
        once_(from.once, from.once + from.node_count),
        inputs_(from.input_offsets, from.inputs, from.node_count),
        readers_(static_cast<size_t>(count_) * words_, 0),
        is_fixed_(options.fixed_order),
        budget_(options.budget_bytes),
        most_(most),
        cover_(from, options.fixed_order, options.budget_bytes),
        clock_(options),
        table_(1 << 16, kNone) {
    for (int32_t node = 0; node < count_; ++node) {
      for (const int32_t* input = inputs_.begin(node); input != inputs_.end(node); ++input) {
        set(&readers_[static_cast<size_t>(*input) * words_], node);
      }
    }
    int64_t total = 0;
    for (const int64_t cost : cost_) total += cost;
    // A schedule is worth finding only if it costs less than the one there is.
    ceiling_ = options.cost_floor < 0 ? std::numeric_limits<int64_t>::max() : options.cost_floor - total;
  }

  int32_t run() {
    Scene last;
    last.live.assign(words_, 0);
    last.choices.assign(words_, 0);
    missing_.assign(words_, 0);
    for (int32_t node = 0; node < count_; ++node) set(missing_.data(), node);
    reach(last, kNone, kNone, count_);
    for (int64_t turn = 0; !queue_.empty(); ++turn) {
      // Every open bound is one on the way to an optimum: the largest of the smallest ones seen holds.
      const Entry entry = queue_.top();
      if (clock_.is_over(turn, -1, -1)) return GRAPHCKPT_REMAT_STOPPED;
      queue_.pop();
      if (is_done_[entry.state] || bound_of(entry.state) != entry.bound) continue;
      bound_ = std::max(bound_, entry.bound);
      if (bound_ >= ceiling_) return GRAPHCKPT_REMAT_NONE_CHEAPER;
      is_done_[entry.state] = 1;
      if (entry.missing == 0) {
        goal_ = entry.state;
        return GRAPHCKPT_REMAT_FOUND;
      }
      if (static_cast<int64_t>(extra_.size()) >= most_) return GRAPHCKPT_REMAT_STOPPED;
      expand(entry.state, entry.missing);
    }
    // What was cut off at the ceiling may well be a schedule.
    if (!was_cut_) return GRAPHCKPT_REMAT_INFEASIBLE;
    bound_ = ceiling_;
    return GRAPHCKPT_REMAT_NONE_CHEAPER;
  }

  int64_t bound() const { return bound_; }
  int64_t states() const { return static_cast<int64_t>(extra_.size()); }
  double seconds() const { return clock_.seconds(); }

  std::vector<int32_t> schedule() const {
    std::vector<int32_t> nodes;
    for (int32_t state = goal_; state != kNone && step_[state] != kNone; state = parent_[state]) nodes.push_back(step_[state]);
    return nodes;
  }

 private:
  using Bits = std::vector<uint64_t>;

  static bool has(const uint64_t* bits, int32_t node) { return bits[node >> 6] >> (node & 63) & 1; }
  static void set(uint64_t* bits, int32_t node) { bits[node >> 6] |= uint64_t{1} << (node & 63); }
  static void clear(uint64_t* bits, int32_t node) { bits[node >> 6] &= ~(uint64_t{1} << (node & 63)); }

  int64_t bound_of(int32_t state) const { return extra_[state] + more_[state]; }
  const uint64_t* missing(int32_t state) const { return &bits_[static_cast<size_t>(state) * 3 * words_]; }

  // Whether all that reads this node stands behind in the schedule already.
  bool is_last(const uint64_t* missing, int32_t node) const {
    const uint64_t* const readers = &readers_[static_cast<size_t>(node) * words_];
    for (int32_t word = 0; word < words_; ++word) {
      if (readers[word] & missing[word]) return false;
    }
    return true;
  }

  // What is live behind a step and must be there: the state before it.
  struct Scene {
    Bits live;
    Bits choices;  // what may be computed again right here, or else not before it is read
    int64_t bytes = 0;
    int64_t extra = 0;
  };

  int64_t added_by(const Bits& live, int32_t node) const {
    int64_t added = 0;
    for (const int32_t* input = inputs_.begin(node); input != inputs_.end(node); ++input) {
      if (!has(live.data(), *input)) added += size_[*input];
    }
    return added;
  }

  // Whether computing this value again right behind here can only lower what is live before.
  bool is_easy(const Scene& scene, int32_t node) const {
    if (!has(scene.live.data(), node) || once_[node]) return false;
    const int64_t added = added_by(scene.live, node);
    return added <= size_[node] && scene.bytes + added <= budget_;
  }

  bool is_first(int32_t node) const { return is_fixed_ ? node == top_ : is_last(missing_.data(), node); }

  void find_top() {
    top_ = count_ - 1;
    while (top_ >= 0 && !has(missing_.data(), top_)) --top_;
  }

  void expand(int32_t state, int32_t missing_count) {
    const uint64_t* const bits = missing(state);
    missing_.assign(bits, bits + words_);
    const Scene scene{Bits(bits + words_, bits + 2 * words_), Bits(bits + 2 * words_, bits + 3 * words_), bytes_[state], extra_[state]};
    find_top();
    firsts_.clear();
    repeats_.clear();
    for (int32_t node = count_ - 1; node >= 0; --node) {
      if (!has(missing_.data(), node)) continue;
      const bool is_live = has(scene.live.data(), node), first = is_first(node);
      if (!first && (!is_live || once_[node])) continue;
      const int64_t added = added_by(scene.live, node), own = is_live ? size_[node] : 0;
      if (scene.bytes - own + size_[node] + added > budget_) continue;
      if (!first) {
        if (added > size_[node] || has(scene.choices.data(), node)) repeats_.push_back(node);
      } else if (added <= own) {
        // What frees as much as it takes can as well be done now: nothing else need be tried.
        compute_first(scene, node, true, state, missing_count);
        return;
      } else {
        firsts_.push_back(node);
      }
    }
    for (const int32_t node : firsts_) compute_first(scene, node, false, state, missing_count);
    for (const int32_t node : repeats_) compute_again(scene, node, state, missing_count);
  }

  void compute_first(const Scene& from, int32_t node, bool is_forced, int32_t parent, int32_t missing_count) {
    clear(missing_.data(), node);
    find_top();
    Scene scene = before(from, node);
    choose(from, scene, node, is_forced ? count_ : kNone);
    reach(scene, parent, node, missing_count - 1);
    set(missing_.data(), node);
    find_top();
  }

  void compute_again(const Scene& from, int32_t node, int32_t parent, int32_t missing_count) {
    Scene scene = before(from, node);
    scene.extra += cost_[node];
    // Of several in one place those go first that may read the others.
    choose(from, scene, node, node);
    reach(scene, parent, node, missing_count);
  }

  Scene before(const Scene& from, int32_t node) const {
    Scene scene{from.live, Bits(words_, 0), from.bytes + added_by(from.live, node), from.extra};
    if (has(from.live.data(), node)) scene.bytes -= size_[node];
    clear(scene.live.data(), node);
    for (const int32_t* input = inputs_.begin(node); input != inputs_.end(node); ++input) set(scene.live.data(), *input);
    return scene;
  }

  // What can be computed again here. The choices of the step behind that lie below `carried` are choices still.
  void choose(const Scene& from, Scene& scene, int32_t node, int32_t carried) const {
    for (int32_t other = 0; other < count_; ++other) {
      if (other == node || !has(scene.live.data(), other) || is_first(other) || !is_easy(scene, other)) continue;
      // It could have been computed again further behind already, and was not: then it is not, up to its next reader.
      const bool is_next = other < carried && has(from.choices.data(), other);
      if (is_next || inputs_.has(node, other) || !is_easy(from, other)) set(scene.choices.data(), other);
    }
  }

  void reach(const Scene& scene, int32_t parent, int32_t step, int32_t missing_count) {
    const uint64_t *missing_bits = missing_.data(), *live_bits = scene.live.data();
    const int64_t extra = scene.extra;
    const int32_t known = static_cast<int32_t>(extra_.size());
    if (2 * static_cast<size_t>(known) >= table_.size()) grow();
    size_t slot = hash(missing_bits, live_bits) & (table_.size() - 1);
    while (table_[slot] != kNone) {
      const int32_t other = table_[slot];
      const uint64_t* const bits = missing(other);
      if (std::equal(missing_bits, missing_bits + words_, bits) && std::equal(live_bits, live_bits + words_, bits + words_)) {
        uint64_t* const choices = &bits_[static_cast<size_t>(other) * 3 * words_ + 2 * words_];
        if (extra > extra_[other]) return;
        bool is_new = extra < extra_[other];
        for (int32_t word = 0; word < words_; ++word) {
          is_new = is_new || (scene.choices[word] & ~choices[word]);
          choices[word] |= scene.choices[word];
        }
        if (!is_new) return;
        extra_[other] = extra;
        is_done_[other] = 0;
        parent_[other] = parent;
        step_[other] = step;
        queue_.push({bound_of(other), missing_count, other});
        return;
      }
      slot = (slot + 1) & (table_.size() - 1);
    }
    const int64_t more = cover_.bound(missing_bits, live_bits);
    if (more == Cover::kInfeasible) return;
    if (extra + more >= ceiling_) {
      was_cut_ = true;
      return;
    }
    table_[slot] = known;
    bits_.insert(bits_.end(), missing_bits, missing_bits + words_);
    bits_.insert(bits_.end(), live_bits, live_bits + words_);
    bits_.insert(bits_.end(), scene.choices.begin(), scene.choices.end());
    extra_.push_back(extra);
    bytes_.push_back(scene.bytes);
    parent_.push_back(parent);
    step_.push_back(step);
    is_done_.push_back(0);
    more_.push_back(more);
    queue_.push({extra + more, missing_count, known});
  }

  uint64_t hash(const uint64_t* missing_bits, const uint64_t* live_bits) const {
    uint64_t sum = 0;
    for (int32_t word = 0; word < words_; ++word) {
      sum = (sum ^ missing_bits[word]) * 0x9e3779b97f4a7c15u;
      sum = ((sum ^ (sum >> 29)) ^ live_bits[word]) * 0xbf58476d1ce4e5b9u;
      sum ^= sum >> 32;
    }
    return sum;
  }

  void grow() {
    table_.assign(2 * table_.size(), kNone);
    for (int32_t state = 0; state < static_cast<int32_t>(extra_.size()); ++state) {
      size_t slot = hash(missing(state), missing(state) + words_) & (table_.size() - 1);
      while (table_[slot] != kNone) slot = (slot + 1) & (table_.size() - 1);
      table_[slot] = state;
    }
  }

  const int32_t count_;
  const int32_t words_;
  const std::vector<int64_t> cost_;
  const std::vector<int64_t> size_;
  const std::vector<uint8_t> once_;
  const Rows inputs_;
  std::vector<uint64_t> readers_;
  const bool is_fixed_;
  const int64_t budget_;
  const int64_t most_;
  int64_t ceiling_;
  const Cover cover_;
  Clock clock_;
  int64_t bound_ = 0;
  bool was_cut_ = false;
  int32_t goal_ = kNone;
  std::vector<int32_t> table_;
  std::vector<uint64_t> bits_;     // by state: nodes still to be computed first, live values, and which of them may be computed again here
  std::vector<int64_t> extra_;
  std::vector<int64_t> more_;      // that will have to be computed again, at least
  std::vector<int64_t> bytes_;     // of the live values
  std::vector<int32_t> parent_;
  std::vector<int32_t> step_;
  std::vector<uint8_t> is_done_;
  std::priority_queue<Entry> queue_;
  std::vector<uint64_t> missing_;
  std::vector<int32_t> firsts_, repeats_;
  int32_t top_ = 0;                // the last node whose first computation is still to come
};

}  // namespace

int32_t graphckpt_remat_prove(const graphckpt_remat_instance* instance, const graphckpt_remat_options* options, int64_t most_states,
                              int32_t* steps, int64_t capacity, graphckpt_remat_proof* proof) try {
  States states(*instance, *options, most_states);
  proof->outcome = states.run();
  proof->extra_cost = states.bound();
  proof->states = states.states();
  proof->seconds = states.seconds();
  const std::vector<int32_t> schedule = states.schedule();
  proof->count = static_cast<int64_t>(schedule.size());
  std::copy(schedule.begin(), schedule.begin() + std::min<int64_t>(proof->count, capacity), steps);
  return GRAPHCKPT_OK;
} catch (const std::bad_alloc&) {
  return GRAPHCKPT_OUT_OF_MEMORY;
}
