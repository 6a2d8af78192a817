#include "remat_cover.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace graphckpt::remat {

namespace {

constexpr size_t kMostWords = size_t{1} << 19;

bool has(const uint64_t* bits, int32_t node) { return bits[node >> 6] >> (node & 63) & 1; }
void set(uint64_t* bits, int32_t node) { bits[node >> 6] |= uint64_t{1} << (node & 63); }

// The cheapest items that are together of a size, by branch and bound. Items come cheapest by the byte first.
class Knapsack {
 public:
  struct Item {
    int64_t cost;
    int64_t size;
  };

  // What is no larger than `enough` need not be exact.
  Knapsack(const std::vector<Item>& items, int64_t enough) : items_(items), enough_(enough) {}

  // A lower bound of the cost, exact if the search was short; Cover::kInfeasible if all of them are too small.
  int64_t cheapest(int64_t size) {
    const int64_t relaxed = relax(0, size, kNever, items_.size());
    if (relaxed == kNever) return Cover::kInfeasible;
    best_ = kNever;
    branch(0, size, 0);
    return turns_ > kMostTurns ? std::max(relaxed, dearest(size)) : best_;
  }

 private:
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
  static constexpr int32_t kMostTurns = 300;

  // With the last item taken in part, rounded up: costs are whole. Without one item, and those of a cost above `most`.
  int64_t relax(size_t from, int64_t size, int64_t most, size_t without) const {
    if (size <= 0) return 0;
    int64_t sum = 0;
    for (size_t at = from; at < items_.size(); ++at) {
      if (items_[at].cost > most || at == without) continue;
      if (items_[at].size >= size) {
        const auto part = static_cast<__int128>(items_[at].cost) * size;
        return sum + static_cast<int64_t>((part + items_[at].size - 1) / items_[at].size);
      }
      sum += items_[at].cost;
      size -= items_[at].size;
    }
    return kNever;
  }

  // One item is the dearest: the best of all choices which, with the others relaxed.
  int64_t dearest(int64_t size) const {
    int64_t best = kNever;
    for (size_t at = 0; at < items_.size(); ++at) {
      if (items_[at].cost >= best) continue;
      const int64_t rest = relax(0, size - items_[at].size, items_[at].cost, at);
      if (rest != kNever) best = std::min(best, items_[at].cost + rest);
    }
    return best;
  }

  void branch(size_t from, int64_t size, int64_t sum) {
    if (size <= 0) {
      best_ = std::min(best_, sum);
      return;
    }
    if (++turns_ > kMostTurns || best_ <= enough_) return;
    const int64_t rest = relax(from, size, kNever, items_.size());
    if (rest == kNever || sum + rest >= best_) return;
    branch(from + 1, size - items_[from].size, sum + items_[from].cost);
    branch(from + 1, size, sum);
  }

  const std::vector<Item>& items_;
  const int64_t enough_;
  int64_t best_ = 0;
  int32_t turns_ = 0;
};

}  // namespace

Cover::Cover(const graphckpt_remat_instance& instance, bool is_fixed, int64_t budget)
    : words_((instance.node_count + 63) / 64), budget_(budget) {
  const int32_t count = instance.node_count;
  const Rows inputs(instance.input_offsets, instance.inputs, count);
  std::vector<std::vector<int32_t>> readers(count);
  std::vector<uint64_t> before(static_cast<size_t>(count) * words_, 0);
  const auto row = [&](int32_t node) { return before.data() + static_cast<size_t>(node) * words_; };
  // Nodes come in a topological order.
  for (int32_t node = 0; node < count; ++node) {
    for (const int32_t* input = inputs.begin(node); input != inputs.end(node); ++input) {
      readers[*input].push_back(node);
      set(row(node), *input);
      for (int32_t word = 0; word < words_; ++word) row(node)[word] |= row(*input)[word];
    }
    for (int32_t other = 0; is_fixed && other < node; ++other) set(row(node), other);
  }
  std::vector<std::pair<int64_t, Place>> found;
  for (int32_t node = 0; node < count; ++node) {
    Place place{node, instance.size_bytes[node], {}, {}};
    for (const int32_t* input = inputs.begin(node); input != inputs.end(node); ++input) place.own += instance.size_bytes[*input];
    int64_t most = place.own;
    for (int32_t other = 0; other < count; ++other) {
      if (!has(row(node), other) || inputs.has(node, other) || instance.size_bytes[other] == 0) continue;
      const auto is_elsewhere = [&](int32_t reader) { return !has(row(node), reader); };
      if (std::none_of(readers[other].begin(), readers[other].end(), is_elsewhere)) continue;
      place.items.push_back({other, instance.once[other] ? -1 : instance.cost[other], instance.size_bytes[other]});
      most += instance.size_bytes[other];
    }
    if (most > budget) found.emplace_back(most, std::move(place));
  }
  // Where most is live comes first; so many as can be looked at for each state.
  std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  size_t words = 0;
  for (auto& [most, place] : found) {
    if ((words += place.items.size() * words_) > kMostWords && !places_.empty()) break;
    std::sort(place.items.begin(), place.items.end(), [](const Item& a, const Item& b) {
      if ((a.cost < 0) != (b.cost < 0)) return b.cost < 0;
      const double left = static_cast<double>(a.cost) * b.size, right = static_cast<double>(b.cost) * a.size;
      return left != right ? left < right : a.node < b.node;
    });
    place.later.assign(place.items.size() * words_, 0);
    for (size_t at = 0; at < place.items.size(); ++at) {
      for (const int32_t reader : readers[place.items[at].node]) {
        if (has(row(reader), place.node)) set(&place.later[at * words_], reader);
      }
    }
    places_.push_back(std::move(place));
  }
}

int64_t Cover::bound(const uint64_t* missing, const uint64_t* live) const {
  int64_t best = 0;
  std::vector<Knapsack::Item> forced;
  for (const Place& place : places_) {
    if (!has(missing, place.node)) continue;
    int64_t over = place.own - budget_;
    forced.clear();
    for (size_t at = 0; at < place.items.size(); ++at) {
      const Item& item = place.items[at];
      bool is_forced = has(live, item.node);
      for (int32_t word = 0; word < words_ && !is_forced; ++word) {
        is_forced = (place.later[at * words_ + word] & missing[word]) != 0;
      }
      if (!is_forced) continue;
      over += item.size;
      if (item.cost >= 0) forced.push_back({item.cost, item.size});
    }
    if (over <= 0) continue;
    const int64_t cost = Knapsack(forced, best).cheapest(over);
    if (cost == kInfeasible) return kInfeasible;
    best = std::max(best, cost);
  }
  return best;
}

}  // namespace graphckpt::remat
