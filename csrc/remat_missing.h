// What has to be computed again for values to be there right before a step: they, and all of their inputs, and theirs, of which no
// copy is kept over that place anyway.
#ifndef GRAPHCKPT_REMAT_MISSING_H
#define GRAPHCKPT_REMAT_MISSING_H

#include "remat_schedule.h"

#include <cstdint>
#include <vector>

namespace graphckpt::remat {

class Missing {
 public:
  explicit Missing(const Schedule& schedule) : schedule_(schedule), asked_(schedule.instance().count(), 0) {}

  // Forgets what was gathered; from now on it is for this step.
  void gather_for(int32_t reader);
  // One value more. Returns what it costs beyond those before it; below 0 if something may not be computed again: then take it back.
  double add(int32_t node);
  // All that the last add() gathered is gone.
  void take_back();
  // What was gathered, each before its readers.
  const std::vector<int32_t>& in_order();

 private:
  bool is_there(int32_t node) const;
  void gather(int32_t node);

  const Schedule& schedule_;
  int32_t place_ = 0;  // the step right before the reader
  std::vector<int32_t> nodes_;
  size_t before_last_ = 0;
  std::vector<int64_t> asked_;  // by node: when it was gathered
  int64_t turn_ = 0;
};

}  // namespace graphckpt::remat

#endif
