// When a search has to stop: its time is over, or who watches it said so.
#ifndef GRAPHCKPT_REMAT_CLOCK_H
#define GRAPHCKPT_REMAT_CLOCK_H

#include "graphckpt_core.h"

#include <chrono>

namespace graphckpt::remat {

class Clock {
 public:
  explicit Clock(const graphckpt_remat_options& options) : options_(options), start_(std::chrono::steady_clock::now()) {}

  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

  // Reports ten times a second. Stays true once it was.
  bool is_over(int64_t iterations, double best_cost, double best_peak) {
    const double seconds = this->seconds();
    if (options_.progress && seconds >= next_report_) {
      next_report_ = seconds + 0.1;
      const auto cost = static_cast<int64_t>(best_cost), peak = static_cast<int64_t>(best_peak);
      was_told_ = options_.progress(options_.context, seconds, iterations, cost, peak) != 0 || was_told_;
    }
    return was_told_ || seconds >= options_.seconds;
  }

 private:
  const graphckpt_remat_options& options_;
  const std::chrono::steady_clock::time_point start_;
  double next_report_ = 0;
  bool was_told_ = false;
};

}  // namespace graphckpt::remat

#endif
