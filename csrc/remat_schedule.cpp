#include "remat_schedule.h"

namespace graphckpt::remat {

void Schedule::Members::insert(int32_t value) {
  where[value] = static_cast<int32_t>(members.size());
  members.push_back(value);
}

void Schedule::Members::erase(int32_t value) {
  const int32_t moved = members.back();
  members[where[value]] = moved;
  where[moved] = where[value];
  members.pop_back();
  where[value] = -1;
}

Schedule::Schedule(const Instance& instance, int32_t capacity, double budget)
    : instance_(instance),
      line_(capacity, budget),
      node_(capacity + 1, -1),
      ending_(capacity + 1, 0.0),
      writable_(capacity + 1, 0),
      events_(instance.count()),
      copies_(instance.count(), 0),
      steps_(capacity),
      repeated_(instance.count()) {
  free_.reserve(capacity);
  for (int32_t step = capacity - 1; step >= 0; --step) free_.push_back(step);
}

int32_t Schedule::put(int32_t node, int32_t place) {
  const int32_t step = free_.back();
  free_.pop_back();
  node_[step] = node;
  ending_[step] = 0;
  writable_[step] = 0;
  line_.insert_after(place, step, instance_.scratch[node] + (place == line_.end() ? 0 : live_behind(place)));
  put_copy(node, step);
  for (const int32_t* input = instance_.inputs.begin(node); input != instance_.inputs.end(node); ++input) {
    put_read(*input, step);
  }
  cost_ += instance_.cost[node];
  if (++copies_[node] == 2) repeated_.insert(node);
  steps_.insert(step);
  return step;
}

void Schedule::take(int32_t step) {
  const int32_t node = node_[step];
  for (const int32_t* input = instance_.inputs.begin(node); input != instance_.inputs.end(node); ++input) {
    take_read(*input, step);
  }
  take_copy(node, step);
  line_.remove(step);
  cost_ -= instance_.cost[node];
  if (--copies_[node] == 1) repeated_.erase(node);
  steps_.erase(step);
  node_[step] = -1;
  free_.push_back(step);
}

void Schedule::load(const std::vector<int32_t>& nodes) {
  while (line_.last() != line_.end()) take(line_.last());
  for (const int32_t node : nodes) put(node, line_.last());
}

std::vector<int32_t> Schedule::nodes() const {
  std::vector<int32_t> nodes;
  nodes.reserve(line_.size());
  for (int32_t step = line_.first(); step != line_.end(); step = line_.next(step)) nodes.push_back(node_[step]);
  return nodes;
}

int32_t Schedule::index_of(int32_t node, int32_t step) const {
  const std::vector<int32_t>& events = events_[node];
  int32_t index = 0;
  while (events[index] != step) ++index;
  return index;
}

bool Schedule::is_unread(int32_t step) const {
  const int32_t node = node_[step];
  const std::vector<int32_t>& events = events_[node];
  const size_t follower = index_of(node, step) + 1;
  return follower == events.size() || is_copy(node, events[follower]);
}

int32_t Schedule::upper(int32_t node, int32_t step) const {
  const std::vector<int32_t>& events = events_[node];
  int32_t low = 0, high = static_cast<int32_t>(events.size());
  while (low < high) {
    const int32_t middle = (low + high) / 2;
    if (line_.before(step, events[middle])) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

bool Schedule::has_copy_before(int32_t node, int32_t index) const {
  const std::vector<int32_t>& events = events_[node];
  while (index > 0) {
    if (is_copy(node, events[--index])) return true;
  }
  return false;
}

// The last event of the copy at `index`: itself if it is not read.
int32_t Schedule::last_read(int32_t node, int32_t index) const {
  const std::vector<int32_t>& events = events_[node];
  const int32_t count = static_cast<int32_t>(events.size());
  while (index + 1 < count && !is_copy(node, events[index + 1])) ++index;
  return events[index];
}

void Schedule::add_between(int32_t after, int32_t before, double bytes) {
  const int32_t from = line_.next(after);
  if (from != before) line_.add(from, line_.previous(before), bytes);
}

bool Schedule::may_write_over(int32_t reader, int32_t node) const {
  return instance_.writes_over[reader] && reader != node && !instance_.shared[node] && instance_.size[node] == instance_.size[reader];
}

// So many copies of the node's value more end at this step, or fewer.
void Schedule::end_at(int32_t node, int32_t step, int32_t copies) {
  ending_[step] += copies * instance_.size[node];
  const int32_t reader = node_[step];
  if (!may_write_over(reader, node)) return;
  const bool did = writable_[step] > 0;
  writable_[step] += copies;
  const bool does = writable_[step] > 0;
  if (did != does) line_.add(step, step, does ? -instance_.size[reader] : instance_.size[reader]);
}

// What is live between a step and the next one: what is live at the step, less its scratch space and what ends there.
double Schedule::live_behind(int32_t step) const {
  const int32_t node = node_[step];
  const double written_over = writable_[step] > 0 ? instance_.size[node] : 0;
  return line_.live(step) - instance_.scratch[node] + written_over - ending_[step];
}

void Schedule::put_copy(int32_t node, int32_t step) {
  std::vector<int32_t>& events = events_[node];
  const int32_t index = upper(node, step);
  const bool takes_over = has_copy_before(node, index);
  events.insert(events.begin() + index, step);
  const double bytes = instance_.size[node];
  const int32_t last = last_read(node, index);
  if (!takes_over || last == step) {
    line_.add(step, last, bytes);
    end_at(node, last, 1);
  } else {
    // What the copy before it kept for these readers lives here from now on: it ends with the reader before.
    add_between(events[index - 1], step, -bytes);
    end_at(node, events[index - 1], 1);
  }
}

void Schedule::take_copy(int32_t node, int32_t step) {
  std::vector<int32_t>& events = events_[node];
  const int32_t index = index_of(node, step);
  const double bytes = instance_.size[node];
  const int32_t last = last_read(node, index);
  if (last == step || !has_copy_before(node, index)) {
    line_.add(step, last, -bytes);
    end_at(node, last, -1);
  } else {
    add_between(events[index - 1], step, bytes);
    end_at(node, events[index - 1], -1);
  }
  events.erase(events.begin() + index);
}

void Schedule::put_read(int32_t node, int32_t step) {
  std::vector<int32_t>& events = events_[node];
  const int32_t index = upper(node, step);
  const bool is_last = index == static_cast<int32_t>(events.size()) || is_copy(node, events[index]);
  if (is_last && has_copy_before(node, index)) {
    const double bytes = instance_.size[node];
    line_.add(line_.next(events[index - 1]), step, bytes);
    end_at(node, events[index - 1], -1);
    end_at(node, step, 1);
  }
  events.insert(events.begin() + index, step);
}

void Schedule::take_read(int32_t node, int32_t step) {
  std::vector<int32_t>& events = events_[node];
  const int32_t index = index_of(node, step);
  const bool is_last = index + 1 == static_cast<int32_t>(events.size()) || is_copy(node, events[index + 1]);
  if (is_last && has_copy_before(node, index)) {
    const double bytes = instance_.size[node];
    line_.add(line_.next(events[index - 1]), step, -bytes);
    end_at(node, events[index - 1], 1);
    end_at(node, step, -1);
  }
  events.erase(events.begin() + index);
}

}  // namespace graphckpt::remat
