// The steps of a schedule in order, and the bytes live at each.
//
// A packed array in blocks: a step has a key that grows along the schedule; inserting a step shifts keys inside of one block, and a
// block that is full makes all of them be laid out anew. A block keeps what was added to all of it apart, its largest value and
// its excess over the budget: adding to a range touches two blocks step by step and the blocks between in constant time.
// It is a segment tree of two floors, short loops over neighbours in place of a deep walk.
// Bytes are doubles that hold whole numbers below 2^53, so sums are exact: the vector units know a maximum of doubles.
#ifndef GRAPHCKPT_REMAT_TIMELINE_H
#define GRAPHCKPT_REMAT_TIMELINE_H

#include <cstdint>
#include <vector>

namespace graphckpt::remat {

class Timeline {
 public:
  // At most `capacity` steps, named by numbers below it.
  Timeline(int32_t capacity, double budget);

  int32_t first() const { return next_[capacity_]; }
  int32_t last() const { return previous_[capacity_]; }
  // `end()` closes the ring: what follows the last step and precedes the first.
  int32_t end() const { return capacity_; }
  int32_t next(int32_t step) const { return next_[step]; }
  int32_t previous(int32_t step) const { return previous_[step]; }
  bool before(int32_t a, int32_t b) const { return key_[a] < key_[b]; }
  int32_t size() const { return size_; }

  void insert_after(int32_t place, int32_t step, double live);
  void remove(int32_t step);
  // Adds to the steps from..to, both included.
  void add(int32_t from, int32_t to, double bytes);

  double live(int32_t step) const { return live_[key_[step]] + blocks_[key_[step] / kBlock].added; }
  double budget() const { return budget_; }
  void set_budget(double budget);
  // The sum over all steps of what is live above the budget.
  double excess() const { return excess_; }
  double peak() const;
  // Some step over the budget, chosen by `lottery`; end() if there is none.
  int32_t overloaded(uint32_t lottery) const;

 private:
  static constexpr int32_t kBlock = 64;

  struct Block {
    int32_t count = 0;
    double added = 0;
    double largest = 0;
    double excess = 0;
  };

  void insert_at(int32_t block, int32_t index, int32_t step, double live);
  void measure(int32_t block);
  void add_inside(int32_t block, int32_t from, int32_t to, double bytes);
  void spread();

  int32_t capacity_;
  int32_t size_ = 0;
  double budget_;
  double excess_ = 0;
  std::vector<Block> blocks_;
  std::vector<double> live_;     // less what its block added
  std::vector<int32_t> steps_;   // by key
  std::vector<int32_t> key_;     // by step
  std::vector<int32_t> next_;
  std::vector<int32_t> previous_;
};

}  // namespace graphckpt::remat

#endif
