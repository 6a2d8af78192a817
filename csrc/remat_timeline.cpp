#include "remat_timeline.h"

#include <algorithm>
#include <limits>

namespace graphckpt::remat {

Timeline::Timeline(int32_t capacity, double budget)
    : capacity_(capacity),
      budget_(budget),
      blocks_(2 * capacity / (kBlock / 2) + 2),
      live_(blocks_.size() * kBlock),
      steps_(blocks_.size() * kBlock),
      key_(capacity + 1, -1),
      next_(capacity + 1),
      previous_(capacity + 1) {
  next_[capacity_] = previous_[capacity_] = capacity_;
}

void Timeline::insert_after(int32_t place, int32_t step, double live) {
  if (place != end() && blocks_[key_[place] / kBlock].count == kBlock) spread();
  if (place == end() && blocks_[0].count == kBlock) spread();
  const int32_t key = place == end() ? -1 : key_[place];
  const int32_t block = place == end() ? 0 : key / kBlock;
  insert_at(block, place == end() ? 0 : key % kBlock + 1, step, live);
  const int32_t follower = next_[place];
  next_[place] = previous_[follower] = step;
  previous_[step] = place;
  next_[step] = follower;
  ++size_;
}

void Timeline::insert_at(int32_t block, int32_t index, int32_t step, double live) {
  Block& own = blocks_[block];
  const int32_t base = block * kBlock;
  for (int32_t at = base + own.count; at > base + index; --at) {
    live_[at] = live_[at - 1];
    steps_[at] = steps_[at - 1];
    key_[steps_[at]] = at;
  }
  if (own.count == 0) own = Block();
  live_[base + index] = live - own.added;
  steps_[base + index] = step;
  key_[step] = base + index;
  own.largest = own.count == 0 ? live : std::max(own.largest, live);
  ++own.count;
  const double over = std::max(0.0, live - budget_);
  own.excess += over;
  excess_ += over;
}

void Timeline::remove(int32_t step) {
  const int32_t key = key_[step], block = key / kBlock, base = block * kBlock;
  Block& own = blocks_[block];
  --own.count;
  for (int32_t at = key; at < base + own.count; ++at) {
    live_[at] = live_[at + 1];
    steps_[at] = steps_[at + 1];
    key_[steps_[at]] = at;
  }
  key_[step] = -1;
  measure(block);
  next_[previous_[step]] = next_[step];
  previous_[next_[step]] = previous_[step];
  --size_;
}

void Timeline::add(int32_t from, int32_t to, double bytes) {
  const int32_t low = key_[from], high = key_[to];
  const int32_t low_block = low / kBlock, high_block = high / kBlock;
  if (low_block == high_block) {
    add_inside(low_block, low, high, bytes);
    return;
  }
  add_inside(low_block, low, low_block * kBlock + blocks_[low_block].count - 1, bytes);
  for (int32_t block = low_block + 1; block < high_block; ++block) {
    Block& own = blocks_[block];
    if (own.count == 0) continue;
    own.added += bytes;
    own.largest += bytes;
    if (own.largest > budget_ || own.excess > 0) measure(block);
  }
  add_inside(high_block, high_block * kBlock, high, bytes);
}

void Timeline::add_inside(int32_t block, int32_t from, int32_t to, double bytes) {
  double* const live = live_.data();
  for (int32_t at = from; at <= to; ++at) live[at] += bytes;
  measure(block);
}

void Timeline::measure(int32_t block) {
  Block& own = blocks_[block];
  const double* const live = live_.data() + block * kBlock;
  const double limit = budget_ - own.added;
  // Four lanes each, for the additions to go side by side: whole numbers, so that their order does not matter.
  constexpr double kNone = -std::numeric_limits<double>::infinity();
  double largest[4] = {kNone, kNone, kNone, kNone}, excess[4] = {0, 0, 0, 0};
  int32_t at = 0;
  for (; at + 4 <= own.count; at += 4) {
    for (int32_t lane = 0; lane < 4; ++lane) {
      const double value = live[at + lane];
      const double over = value - limit;
      largest[lane] = largest[lane] > value ? largest[lane] : value;
      excess[lane] += over > 0 ? over : 0;
    }
  }
  for (; at < own.count; ++at) {
    largest[0] = std::max(largest[0], live[at]);
    excess[0] += std::max(0.0, live[at] - limit);
  }
  own.largest = own.added + std::max(std::max(largest[0], largest[1]), std::max(largest[2], largest[3]));
  const double sum = (excess[0] + excess[1]) + (excess[2] + excess[3]);
  excess_ += sum - own.excess;
  own.excess = sum;
}

void Timeline::spread() {
  std::vector<int32_t> order;
  std::vector<double> values;
  order.reserve(size_);
  values.reserve(size_);
  for (int32_t step = first(); step != end(); step = next_[step]) {
    order.push_back(step);
    values.push_back(live(step));
  }
  std::fill(blocks_.begin(), blocks_.end(), Block());
  excess_ = 0;
  for (int32_t at = 0; at < static_cast<int32_t>(order.size()); ++at) {
    insert_at(at / (kBlock / 2), at % (kBlock / 2), order[at], values[at]);
  }
}

void Timeline::set_budget(double budget) {
  budget_ = budget;
  for (int32_t block = 0; block < static_cast<int32_t>(blocks_.size()); ++block) {
    if (blocks_[block].count > 0) measure(block);
  }
}

double Timeline::peak() const {
  double peak = 0;
  for (const Block& block : blocks_) {
    if (block.count > 0) peak = std::max(peak, block.largest);
  }
  return peak;
}

int32_t Timeline::overloaded(uint32_t lottery) const {
  if (excess_ <= 0) return end();
  const int32_t blocks = static_cast<int32_t>(blocks_.size());
  const int32_t start = lottery % blocks;
  for (int32_t turn = 0; turn < blocks; ++turn) {
    const int32_t block = (start + turn) % blocks;
    if (blocks_[block].excess <= 0) continue;
    const int32_t count = blocks_[block].count;
    for (int32_t at = 0, index = (lottery >> 8) % count; at < count; ++at, index = (index + 1) % count) {
      if (live_[block * kBlock + index] + blocks_[block].added > budget_) return steps_[block * kBlock + index];
    }
  }
  return end();
}

}  // namespace graphckpt::remat
