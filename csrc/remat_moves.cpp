#include "remat_moves.h"

namespace graphckpt::remat {

namespace {

constexpr int32_t kDeepest = 64;     // of inputs' inputs that were computed again for what is gone
constexpr int32_t kLongestChain = 5;  // one insertion computes up to 2^this - 1 inputs again
constexpr int32_t kTries = 8;        // random places looked at before a move gives up
constexpr int32_t kLongestWalk = 6;  // a near target is up to 2^this steps away
constexpr int32_t kLongestRun = 12;
constexpr double kMostGreed = 2;

}  // namespace

int32_t Moves::put(int32_t node, int32_t place) {
  const int32_t step = schedule_.put(node, place);
  journal_.push_back({true, step, place});
  return step;
}

void Moves::take(int32_t step) {
  journal_.push_back({false, schedule_.node(step), schedule_.line().previous(step)});
  schedule_.take(step);
}

void Moves::undo() {
  while (!journal_.empty()) {
    const Entry entry = journal_.back();
    journal_.pop_back();
    if (entry.was_put) {
      schedule_.take(entry.step_or_node);
    } else {
      schedule_.put(entry.step_or_node, entry.place);
    }
  }
}

// Whether every read finds a copy if the step stood right behind `place`. In a fixed order first computations stay where they are,
// and nothing is computed again before it was computed first.
bool Moves::may_stand_behind(int32_t step, int32_t place) const {
  const Timeline& line = schedule_.line();
  const int32_t node = schedule_.node(step);
  const Rows& inputs = schedule_.instance().inputs;
  for (const int32_t* input = inputs.begin(node); input != inputs.end(node); ++input) {
    if (place == line.end() || line.before(place, schedule_.events(*input)[0])) return false;
  }
  const std::vector<int32_t>& events = schedule_.events(node);
  if (events[0] != step) return order_ == Order::kFree || (place != line.end() && !line.before(place, events[0]));
  if (order_ == Order::kFixed) return false;
  return place == line.end() || events.size() == 1 || line.before(place, events[1]);
}

bool Moves::relocate(int32_t step, int32_t place) {
  const Timeline& line = schedule_.line();
  if (place == step || place == line.previous(step) || !may_stand_behind(step, place)) return false;
  const int32_t node = schedule_.node(step);
  take(step);
  put(node, place);
  return true;
}

// A copy that is read by none goes, if it is not the only one; in a fixed order the first one stays.
bool Moves::drop_unread(int32_t node) {
  bool dropped = false;
  for (size_t index = 0; schedule_.copies(node) > 1 && index < schedule_.events(node).size();) {
    const std::vector<int32_t>& events = schedule_.events(node);
    const int32_t step = events[index];
    const bool is_unread = schedule_.is_copy(node, step) && (index + 1 == events.size() || schedule_.is_copy(node, events[index + 1]));
    if (is_unread && (order_ == Order::kFree || index > 0)) {
      take(step);
      dropped = true;
    } else {
      ++index;
    }
  }
  return dropped;
}

void Moves::drop_unread_inputs(int32_t node, int32_t depth) {
  if (depth == 0) return;
  const Rows& inputs = schedule_.instance().inputs;
  for (const int32_t* input = inputs.begin(node); input != inputs.end(node); ++input) {
    if (schedule_.copies(*input) > 1 && drop_unread(*input)) drop_unread_inputs(*input, depth - 1);
  }
}

void Moves::tidy(int32_t node) {
  if (schedule_.repeated().empty()) return;
  drop_unread(node);
  drop_unread_inputs(node, kDeepest);
}

int32_t Moves::target_near(int32_t step) {
  const Timeline& line = schedule_.line();
  const int32_t reach = 1 << lottery_.below(kLongestWalk + 1);
  const int32_t distance = 1 + lottery_.below(reach);
  const bool forward = lottery_.draw() & 1;
  int32_t place = forward ? step : line.previous(step);
  for (int32_t turn = 0; turn < distance; ++turn) {
    const int32_t further = forward ? line.next(place) : line.previous(place);
    if (further == line.end() || place == line.end()) break;
    place = further;
  }
  return place;
}

bool Moves::shift() {
  const std::vector<int32_t>& steps = schedule_.steps();
  for (int32_t turn = 0; turn < kTries; ++turn) {
    const int32_t step = steps[lottery_.below(static_cast<int32_t>(steps.size()))];
    if (order_ == Order::kFixed && is_first(step)) continue;
    const bool is_near = lottery_.below(4) != 0;
    const int32_t place = is_near ? target_near(step) : steps[lottery_.below(static_cast<int32_t>(steps.size()))];
    const int32_t node = schedule_.node(step);
    if (!relocate(step, place)) continue;
    tidy(node);
    return true;
  }
  return false;
}

// The value of `node` is computed right before `reader`; inputs that end long before it are, by lot, computed for it too.
bool Moves::compute_before(int32_t node, int32_t reader, int32_t& chain) {
  if (schedule_.is_full() || schedule_.instance().once[node]) return false;
  const Timeline& line = schedule_.line();
  const int32_t own = put(node, line.previous(reader));
  tidy(node);
  const Rows& inputs = schedule_.instance().inputs;
  for (const int32_t* input = inputs.begin(node); input != inputs.end(node) && chain > 0; ++input) {
    const std::vector<int32_t>& events = schedule_.events(*input);
    const size_t index = schedule_.index_of(*input, own);
    const bool is_last = index + 1 == events.size() || schedule_.is_copy(*input, events[index + 1]);
    if (!is_last || line.next(events[index - 1]) == own || lottery_.below(3) == 0) continue;
    --chain;
    if (!compute_before(*input, own, chain)) return false;
  }
  return true;
}

bool Moves::insert() {
  const std::vector<int32_t>& steps = schedule_.steps();
  const Timeline& line = schedule_.line();
  const Rows& inputs = schedule_.instance().inputs;
  for (int32_t turn = 0; turn < kTries; ++turn) {
    const int32_t reader = steps[lottery_.below(static_cast<int32_t>(steps.size()))];
    const int32_t node = schedule_.node(reader);
    if (inputs.size(node) == 0) continue;
    const int32_t input = inputs.begin(node)[lottery_.below(static_cast<int32_t>(inputs.size(node)))];
    const int32_t before = schedule_.events(input)[schedule_.index_of(input, reader) - 1];
    if (line.next(before) == reader) continue;
    int32_t chain = lottery_.below(1 << lottery_.below(kLongestChain + 1));
    return compute_before(input, reader, chain);
  }
  return false;
}

// The first step behind this one to read a value that is only kept over it; end() if there is none.
int32_t Moves::reader_behind(int32_t node, int32_t step) const {
  const std::vector<int32_t>& events = schedule_.events(node);
  const size_t next = schedule_.upper(node, step);
  const bool is_kept = next > 0 && next < events.size() && !schedule_.is_copy(node, events[next]) && events[next - 1] != step;
  return is_kept ? events[next] : schedule_.line().end();
}

bool Moves::relieve() {
  const Timeline& line = schedule_.line();
  const int32_t full = line.overloaded(static_cast<uint32_t>(lottery_.draw()));
  if (full == line.end()) return insert();
  const int32_t count = schedule_.instance().count();
  for (int32_t turn = 0; turn < 4 * kTries; ++turn) {
    const int32_t node = lottery_.below(count), reader = reader_behind(node, full);
    if (reader == line.end()) continue;
    int32_t chain = lottery_.below(1 << lottery_.below(kLongestChain + 1));
    return compute_before(node, reader, chain);
  }
  return false;
}

bool Moves::remove() {
  const std::vector<int32_t>& repeated = schedule_.repeated();
  if (repeated.empty()) return false;
  const int32_t node = repeated[lottery_.below(static_cast<int32_t>(repeated.size()))];
  const std::vector<int32_t>& events = schedule_.events(node);
  int32_t lot = 1 + lottery_.below(schedule_.copies(node) - 1);
  size_t index = 0;
  while (lot > 0) lot -= schedule_.is_copy(node, events[++index]);
  take(events[index]);
  drop_unread_inputs(node, kDeepest);
  return true;
}

bool Moves::exchange() {
  if (!remove()) return false;
  if (lottery_.below(2) == 0 ? relieve() : insert()) return true;
  undo();
  return false;
}

bool Moves::run() {
  if (order_ == Order::kFixed) return false;
  const Timeline& line = schedule_.line();
  const std::vector<int32_t>& steps = schedule_.steps();
  const int32_t length = 2 + lottery_.below(kLongestRun - 1);
  const int32_t start = steps[lottery_.below(static_cast<int32_t>(steps.size()))];
  int32_t chosen[kLongestRun];
  int32_t count = 0;
  for (int32_t step = start; step != line.end() && count < length; step = line.next(step)) chosen[count++] = step;
  int32_t place = target_near(lottery_.below(2) == 0 ? chosen[0] : chosen[count - 1]);
  for (int32_t at = 0; at < count; ++at) {
    if (place == chosen[at]) return false;
  }
  const bool forward = place != line.end() && line.before(chosen[count - 1], place);
  for (int32_t at = 0; at < count; ++at) {
    // Forward the last one goes first and each next one behind the same place; backward the first one leads and the others follow it.
    const int32_t step = chosen[forward ? count - 1 - at : at];
    const int32_t node = schedule_.node(step);
    if (!may_stand_behind(step, place)) {
      undo();
      return false;
    }
    take(step);
    const int32_t own = put(node, place);
    if (!forward) place = own;
  }
  for (int32_t at = 0; at < count; ++at) {
    const int32_t node = schedule_.node(chosen[at]);
    if (node >= 0) tidy(node);
  }
  return true;
}

// A value that is far from what is kept costs as much to compute again as all that are missing with it: so they come along, each that
// adds no more cost for its bytes than `greed` times what those before it do.
bool Moves::rerun() {
  const Timeline& line = schedule_.line();
  const Instance& instance = schedule_.instance();
  const int32_t full = line.overloaded(static_cast<uint32_t>(lottery_.draw()));
  if (full == line.end()) return false;
  kept_.clear();
  for (int32_t node = 0; node < instance.count(); ++node) {
    const int32_t reader = reader_behind(node, full);
    if (reader != line.end()) kept_.push_back({node, reader});
  }
  if (kept_.empty()) return false;
  const Kept leader = kept_[lottery_.below(static_cast<int32_t>(kept_.size()))];
  const double greed = kMostGreed * lottery_.share();
  missing_.gather_for(leader.reader);
  double cost = missing_.add(leader.node), bytes = instance.size[leader.node];
  if (cost < 0) return false;
  for (const Kept& other : kept_) {
    if (other.node == leader.node || line.before(other.reader, leader.reader)) continue;
    const double more = missing_.add(other.node);
    if (more < 0 || more * bytes > greed * cost * instance.size[other.node]) {
      missing_.take_back();
      continue;
    }
    cost += more;
    bytes += instance.size[other.node];
  }
  for (const int32_t node : missing_.in_order()) {
    if (schedule_.is_full()) return false;
    put(node, line.previous(leader.reader));
  }
  for (const int32_t node : missing_.in_order()) tidy(node);
  return true;
}

}  // namespace graphckpt::remat
