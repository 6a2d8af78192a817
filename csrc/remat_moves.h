// Changes of a schedule that keep it a schedule, each with the way back.
#ifndef GRAPHCKPT_REMAT_MOVES_H
#define GRAPHCKPT_REMAT_MOVES_H

#include "remat_missing.h"
#include "remat_schedule.h"

#include <cstdint>
#include <vector>

namespace graphckpt::remat {

// SplitMix64: small, and the same everywhere.
class Lottery {
 public:
  explicit Lottery(uint64_t seed) : state_(seed) {}
  uint64_t draw() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // A number in 0 .. count - 1.
  int32_t below(int32_t count) {
    return static_cast<int32_t>((static_cast<uint64_t>(static_cast<uint32_t>(draw() >> 32)) * static_cast<uint64_t>(count)) >> 32);
  }
  // In [0, 1).
  double share() { return static_cast<double>(draw() >> 11) * 0x1.0p-53; }

 private:
  uint64_t state_;
};

enum class Order { kFree, kFixed };

class Moves {
 public:
  Moves(Schedule& schedule, Order order, Lottery& lottery)
      : schedule_(schedule), order_(order), lottery_(lottery), missing_(schedule) {}

  // Each tries one change at random places and says whether there is one; undo() takes it back, keep() forgets the way back.
  bool shift();    // a step stands elsewhere
  bool insert();   // a value is computed again before a reader, and inputs of it that would have to be kept for that
  bool relieve();  // the same where the budget is exceeded, for a value that is only kept there
  bool remove();   // a recomputation goes, and what was computed again only for it
  bool exchange(); // remove, then insert
  bool run();      // several steps in a row stand elsewhere
  bool rerun();    // where the budget is exceeded, values that are only kept there are computed again together, before a reader

  void undo();
  void keep() { journal_.clear(); }

 private:
  // What was done: `step` was put behind `place`, or `node` was taken from behind it.
  struct Entry {
    bool was_put;
    int32_t step_or_node;
    int32_t place;
  };

  // A value that is kept over a step, and who reads it behind that.
  struct Kept {
    int32_t node;
    int32_t reader;
  };

  int32_t put(int32_t node, int32_t place);
  void take(int32_t step);
  bool relocate(int32_t step, int32_t place);
  bool may_stand_behind(int32_t step, int32_t place) const;
  bool is_first(int32_t step) const { return schedule_.events(schedule_.node(step))[0] == step; }
  bool compute_before(int32_t node, int32_t reader, int32_t& chain);
  bool drop_unread(int32_t node);
  void drop_unread_inputs(int32_t node, int32_t depth);
  void tidy(int32_t node);
  int32_t target_near(int32_t step);
  int32_t reader_behind(int32_t node, int32_t step) const;

  Schedule& schedule_;
  Order order_;
  Lottery& lottery_;
  Missing missing_;
  std::vector<Kept> kept_;
  std::vector<Entry> journal_;
};

}  // namespace graphckpt::remat

#endif
