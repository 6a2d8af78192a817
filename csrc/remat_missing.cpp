#include "remat_missing.h"

#include <algorithm>

namespace graphckpt::remat {

void Missing::gather_for(int32_t reader) {
  place_ = schedule_.line().previous(reader);
  nodes_.clear();
  before_last_ = 0;
  ++turn_;
}

double Missing::add(int32_t node) {
  before_last_ = nodes_.size();
  gather(node);
  const Instance& instance = schedule_.instance();
  double cost = 0;
  for (size_t at = before_last_; at < nodes_.size(); ++at) {
    const int32_t own = nodes_[at];
    if (instance.once[own]) return -1;
    cost += instance.cost[own];
    for (const int32_t* input = instance.inputs.begin(own); input != instance.inputs.end(own); ++input) {
      if (!is_there(*input)) gather(*input);
    }
  }
  return cost;
}

void Missing::take_back() {
  while (nodes_.size() > before_last_) {
    asked_[nodes_.back()] = 0;
    nodes_.pop_back();
  }
}

const std::vector<int32_t>& Missing::in_order() {
  // First computations stand in an order in which inputs come first.
  std::sort(nodes_.begin(), nodes_.end(), [this](int32_t a, int32_t b) {
    return schedule_.line().before(schedule_.events(a)[0], schedule_.events(b)[0]);
  });
  return nodes_;
}

bool Missing::is_there(int32_t node) const {
  const std::vector<int32_t>& events = schedule_.events(node);
  const size_t next = schedule_.upper(node, place_);
  return next > 0 && next < events.size() && !schedule_.is_copy(node, events[next]);
}

void Missing::gather(int32_t node) {
  if (asked_[node] == turn_) return;
  asked_[node] = turn_;
  nodes_.push_back(node);
}

}  // namespace graphckpt::remat
