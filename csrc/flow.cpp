// The smallest cut of a directed network, by Dinic's blocking flows (1970): level graph by breadth, augmenting paths by depth,
// both without recursion, for networks are as deep as the model that they describe.

#include "graphckpt_core.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <new>
#include <vector>

namespace {

// Edge e and its reverse e ^ 1 are neighbours in `edges_`; the edges of a node are first_[node] .. first_[node + 1].
class Network {
 public:
  Network(int32_t node_count, int64_t edge_count, const int32_t* from, const int32_t* to, const int64_t* capacity)
      : first_(node_count + 1, 0), at_node_(2 * edge_count), edges_(2 * edge_count), level_(node_count), next_(node_count) {
    for (int64_t edge = 0; edge < edge_count; ++edge) {
      edges_[2 * edge] = {to[edge], capacity[edge]};
      edges_[2 * edge + 1] = {from[edge], 0};
      ++first_[from[edge] + 1];
      ++first_[to[edge] + 1];
    }
    for (int32_t node = 0; node < node_count; ++node) first_[node + 1] += first_[node];
    std::copy(first_.begin(), first_.end() - 1, next_.begin());
    for (int64_t edge = 0; edge < edge_count; ++edge) {
      at_node_[next_[from[edge]]++] = 2 * edge;
      at_node_[next_[to[edge]]++] = 2 * edge + 1;
    }
  }

  int64_t push_all(int32_t source, int32_t sink) {
    int64_t total = 0;
    while (find_levels(source, sink)) {
      std::copy(first_.begin(), first_.end() - 1, next_.begin());
      while (const int64_t pushed = push_once(source, sink)) {
        total += pushed;
        // Two nodes that no cut parts: whoever asked is told so, and the sum does not overflow.
        if (total >= GRAPHCKPT_UNCUTTABLE) return total;
      }
    }
    return total;
  }

  // After the last flow: what the source still reaches.
  bool is_reached(int32_t node) const { return level_[node] >= 0; }

 private:
  struct Edge {
    int32_t to;
    int64_t left;
  };

  bool find_levels(int32_t source, int32_t sink) {
    std::fill(level_.begin(), level_.end(), -1);
    level_[source] = 0;
    queue_.assign(1, source);
    for (size_t head = 0; head < queue_.size(); ++head) {
      const int32_t node = queue_[head];
      for (int64_t at = first_[node]; at < first_[node + 1]; ++at) {
        const Edge& edge = edges_[at_node_[at]];
        if (edge.left == 0 || level_[edge.to] >= 0) continue;
        level_[edge.to] = level_[node] + 1;
        queue_.push_back(edge.to);
      }
    }
    return level_[sink] >= 0;
  }

  // One augmenting path in the level graph; 0 if there is none left. Dead ends are never entered again.
  int64_t push_once(int32_t source, int32_t sink) {
    path_.clear();
    int32_t node = source;
    while (node != sink) {
      const int64_t edge = find_edge(node);
      if (edge >= 0) {
        path_.push_back(edge);
        node = edges_[edge].to;
      } else if (node == source) {
        return 0;
      } else {
        node = edges_[path_.back() ^ 1].to;
        path_.pop_back();
        ++next_[node];
      }
    }
    int64_t least = std::numeric_limits<int64_t>::max();
    for (const int64_t edge : path_) least = std::min(least, edges_[edge].left);
    for (const int64_t edge : path_) {
      edges_[edge].left -= least;
      edges_[edge ^ 1].left += least;
    }
    return least;
  }

  int64_t find_edge(int32_t node) {
    for (; next_[node] < first_[node + 1]; ++next_[node]) {
      const int64_t edge = at_node_[next_[node]];
      if (edges_[edge].left > 0 && level_[edges_[edge].to] == level_[node] + 1) return edge;
    }
    return -1;
  }

  std::vector<int64_t> first_;
  std::vector<int64_t> at_node_;
  std::vector<Edge> edges_;
  std::vector<int32_t> level_;
  std::vector<int64_t> next_;
  std::vector<int32_t> queue_;
  std::vector<int64_t> path_;
};

}  // namespace

int32_t graphckpt_min_cut(int32_t node_count, int64_t edge_count, const int32_t* from, const int32_t* to,
                          const int64_t* capacity, int32_t source, int32_t sink, uint8_t* source_side, int64_t* value) {
  try {
    Network network(node_count, edge_count, from, to, capacity);
    *value = network.push_all(source, sink);
    for (int32_t node = 0; node < node_count; ++node) source_side[node] = network.is_reached(node);
    return GRAPHCKPT_OK;
  } catch (const std::bad_alloc&) {
    return GRAPHCKPT_OUT_OF_MEMORY;
  }
}
