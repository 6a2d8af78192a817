// What has to be computed again because it cannot all be kept, seen from one node: a lower bound.
//
// When node v is computed for the first time, every value u that it depends on is there already. If a reader of u comes after v
// (it depends on v, or the order is fixed), or if u is known to be live later, then u is kept while v is computed, or computed
// again afterwards. So at v all these values fit into the budget beside v and its inputs, less those that are computed again. The
// cheapest choice of the latter is a knapsack; its linear relaxation, rounded up, is the bound. The best v gives the answer.
#ifndef GRAPHCKPT_REMAT_COVER_H
#define GRAPHCKPT_REMAT_COVER_H

#include "graph.h"

#include <cstdint>
#include <vector>

namespace graphckpt::remat {

class Cover {
 public:
  static constexpr int64_t kInfeasible = -1;

  Cover(const graphckpt_remat_instance& instance, bool is_fixed, int64_t budget);

  // No way to complete the schedule costs less than this beyond each missing node once; kInfeasible: there is none.
  // missing: nodes whose first computation is still to come, going backwards; live: values needed behind them.
  int64_t bound(const uint64_t* missing, const uint64_t* live) const;

 private:
  struct Item {
    int32_t node;
    int64_t cost;  // negative: it may not be computed again
    int64_t size;
  };
  struct Place {
    int32_t node;
    int64_t own;                  // bytes of the node and its inputs
    std::vector<Item> items;      // cheapest by the byte first
    std::vector<uint64_t> later;  // words each: readers of the item that come after the node
  };

  int32_t words_;
  int64_t budget_;
  std::vector<Place> places_;
};

}  // namespace graphckpt::remat

#endif
