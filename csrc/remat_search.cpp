// Simulated annealing over schedules with repeats; graphckpt/solve/remat/search.py says what is looked for.

#include "remat_clock.h"
#include "remat_moves.h"
#include "remat_schedule.h"

#include <algorithm>
#include <cmath>
#include <new>

namespace {

using graphckpt::remat::Clock;
using graphckpt::remat::Instance;
using graphckpt::remat::Lottery;
using graphckpt::remat::Moves;
using graphckpt::remat::Order;
using graphckpt::remat::Schedule;

// Temperatures are in units of the mean cost of a node. Found by trying on graphs of 70 to 500 nodes.
struct Cooling {
  double from;  // shares of the whole search
  double to;
  double hot;
  double cold;
};

constexpr double kOrderShare = 0.25;    // of the search: orders alone, nothing computed again
constexpr double kOrderStrictness = 0.8;  // of the budget is what counts as full there: room is worth having everywhere
constexpr double kOrderHot = 5, kOrderCold = 0.01;
constexpr double kHot = 0.5, kReheated = 0.2, kCold = 0.005;
constexpr double kLeastWeight = 0.1, kMostWeight = 1e7, kWeightStep = 1.002;
constexpr double kCostOfSmallest = 0.02;  // cost counts a little where the peak is to be small: what is useless goes
constexpr double kShrink = 0.998;         // a peak that was reached lowers the next one wanted to this

// How a search goes about it. `reruns`: of the moves where the peak is to be small; one takes as long as some hundred others. The
// shares behind it are those of the other moves, in the order of Search::move; exchanges have the rest.
struct Manner {
  int32_t rounds;
  double first_weight;
  double reruns;
  double shifts, runs, insertions, reliefs, removals;
};

constexpr Manner kFromOrder = {3, 30, 0.02, 0.55, 0.03, 0.08, 0.08, 0.14};
// From a schedule with repeats: what is there is worth more than what a hot search would find again. Tried on joint graphs, where
// plans of reruns are smaller still as problems, and more often than not larger once Inductor has made kernels of them.
constexpr Manner kFromRepeats = {1, 300, 0, 0.3, 0.03, 0.1, 0.12, 0.3};

class Search {
 public:
  Search(const Instance& instance, const graphckpt_remat_options& options, int32_t capacity)
      : options_(options),
        is_smallest_(options.goal == GRAPHCKPT_REMAT_SMALLEST),
        is_fixed_(options.fixed_order),
        lottery_(options.seed),
        schedule_(instance, capacity, static_cast<double>(options.budget_bytes)),
        moves_(schedule_, is_fixed_ ? Order::kFixed : Order::kFree, lottery_),
        clock_(options) {
    double total = 0;
    for (const double cost : instance.cost) total += cost;
    cost_unit_ = std::max(total, 1.0) / instance.count() / (is_smallest_ ? kCostOfSmallest : 1);
    schedule_.load(std::vector<int32_t>(options.start, options.start + options.start_count));
    excess_unit_ = std::max(1.0, schedule_.line().peak());
    manner_ = schedule_.repeated().empty() ? kFromOrder : kFromRepeats;
    remember();
  }

  void run() {
    const double budget = schedule_.line().budget();
    double from = 0, hot = kHot;
    if (!schedule_.repeated().empty()) hot = kReheated;
    if (!is_stopped_ && !is_fixed_ && schedule_.repeated().empty()) {
      schedule_.line().set_budget(std::floor(kOrderStrictness * budget));
      only_order_ = true;
      anneal({0, kOrderShare, kOrderHot, kOrderCold});
      only_order_ = false;
      schedule_.line().set_budget(budget);
      from = kOrderShare;
      consider();
    }
    if (is_smallest_) shrink(best_peak_);
    for (int32_t round = 0; round < manner_.rounds && !is_stopped_; ++round) {
      if (round > 0 && found_) schedule_.load(best_);
      const double to = from + (1 - from) / (manner_.rounds - round);
      anneal({from, to, round == 0 ? hot : kReheated, kCold});
      from = to;
    }
  }

  bool found() const { return found_ && best_peak_ <= static_cast<double>(options_.budget_bytes); }
  const std::vector<int32_t>& best() const { return best_; }
  int64_t iterations() const { return iterations_; }
  double seconds() const { return clock_.seconds(); }

 private:
  double value() const { return schedule_.cost() / cost_unit_ + weight_ * schedule_.line().excess() / excess_unit_; }

  void anneal(const Cooling& cooling) {
    weight_ = manner_.first_weight;
    double current = value(), temperature = cooling.hot;
    while (true) {
      if (iterations_ % 256 == 0) {
        const double progress = this->progress();
        if (is_stopped_ || progress >= cooling.to) return;
        const double share = std::max(0.0, progress - cooling.from) / (cooling.to - cooling.from);
        temperature = cooling.hot * std::pow(cooling.cold / cooling.hot, share);
      }
      if (iterations_ % 64 == 0 && !only_order_) {
        weight_ *= schedule_.line().excess() > 0 ? kWeightStep : 1 / kWeightStep;
        weight_ = std::min(kMostWeight, std::max(kLeastWeight, weight_));
        current = value();
      }
      ++iterations_;
      if (!move()) {
        moves_.undo();
        continue;
      }
      const double changed = value(), rise = changed - current;
      if (rise > 0 && lottery_.share() >= std::exp(-rise / temperature)) {
        moves_.undo();
        continue;
      }
      moves_.keep();
      current = changed;
      if (only_order_) continue;
      consider();
      if (is_smallest_ && schedule_.line().excess() <= 0) {
        shrink(schedule_.line().peak());
        current = value();
      }
    }
  }

  // Budgets are whole numbers, so that sums are exact.
  void shrink(double peak) { schedule_.line().set_budget(std::min(peak - 1, std::floor(kShrink * peak))); }

  bool move() {
    const bool may_rerun = is_smallest_ && !only_order_ && manner_.reruns > 0;
    if (may_rerun && lottery_.share() < manner_.reruns) return moves_.rerun();
    double lot = lottery_.share() * (only_order_ ? manner_.shifts + manner_.runs : 1.0);
    if ((lot -= manner_.shifts) < 0) return moves_.shift();
    if ((lot -= manner_.runs) < 0) return moves_.run();
    if ((lot -= manner_.insertions) < 0) return moves_.insert();
    if ((lot -= manner_.reliefs) < 0) return moves_.relieve();
    if ((lot -= manner_.removals) < 0) return moves_.remove();
    return moves_.exchange();
  }

  // Is this the best so far? Without a plan the one nearest to the budget is.
  void consider() {
    const double excess = schedule_.line().excess();
    if (is_smallest_) {
      if (excess <= 0 && schedule_.line().peak() < best_peak_) remember();
    } else if (excess <= 0 ? !found_ || schedule_.cost() < best_cost_ : !found_ && excess < best_excess_) {
      remember();
    }
  }

  void remember() {
    best_excess_ = schedule_.line().excess();
    found_ = is_smallest_ || best_excess_ <= 0;
    best_cost_ = schedule_.cost();
    best_peak_ = schedule_.line().peak();
    best_ = schedule_.nodes();
    const bool is_enough = is_smallest_ ? best_peak_ <= static_cast<double>(options_.budget_bytes)
                                        : found_ && best_cost_ <= static_cast<double>(options_.cost_floor);
    is_stopped_ = is_stopped_ || is_enough;
  }

  // From 0 to 1: by the clock only where there is no number of iterations.
  double progress() {
    if (clock_.is_over(iterations_, found_ ? best_cost_ : -1, found_ ? best_peak_ : -1)) is_stopped_ = true;
    if (options_.iterations == 0) return clock_.seconds() / options_.seconds;
    return static_cast<double>(iterations_) / static_cast<double>(options_.iterations);
  }

  const graphckpt_remat_options& options_;
  const bool is_smallest_;
  const bool is_fixed_;
  Lottery lottery_;
  Schedule schedule_;
  Moves moves_;
  Clock clock_;
  double cost_unit_ = 1;
  double excess_unit_ = 1;
  Manner manner_ = kFromOrder;
  double weight_ = 0;
  int64_t iterations_ = 0;
  bool only_order_ = false;
  bool is_stopped_ = false;
  bool found_ = false;
  double best_cost_ = 0;
  double best_peak_ = 0;
  double best_excess_ = 0;
  std::vector<int32_t> best_;
};

}  // namespace

int32_t graphckpt_remat_search(const graphckpt_remat_instance* instance, const graphckpt_remat_options* options, int32_t* steps,
                               int64_t capacity, graphckpt_remat_result* result) try {
  const Instance own(*instance);
  Search search(own, *options, static_cast<int32_t>(capacity));
  search.run();
  std::copy(search.best().begin(), search.best().end(), steps);
  *result = {search.found(), static_cast<int64_t>(search.best().size()), search.iterations(), search.seconds()};
  return GRAPHCKPT_OK;
} catch (const std::bad_alloc&) {
  return GRAPHCKPT_OUT_OF_MEMORY;
}
