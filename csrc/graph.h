// What the core keeps of a graph; not part of its interface.
#ifndef GRAPHCKPT_GRAPH_H
#define GRAPHCKPT_GRAPH_H

#include "graphckpt_core.h"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace graphckpt {

// Compressed rows: row i is values[offsets[i]] .. values[offsets[i + 1] - 1].
struct Rows {
  std::vector<int64_t> offsets;
  std::vector<int32_t> values;

  Rows(const int64_t* row_offsets, const int32_t* row_values, int32_t count)
      : offsets(row_offsets, row_offsets + count + 1), values(row_values, row_values + row_offsets[count]) {}

  const int32_t* begin(int32_t row) const { return values.data() + offsets[row]; }
  const int32_t* end(int32_t row) const { return values.data() + offsets[row + 1]; }
  int64_t size(int32_t row) const { return offsets[row + 1] - offsets[row]; }
  bool has(int32_t row, int32_t value) const { return std::find(begin(row), end(row), value) != end(row); }
};

}  // namespace graphckpt

struct graphckpt_graph {
  std::vector<uint8_t> kind;
  std::vector<uint8_t> fusible;
  std::vector<int64_t> workspace_bytes;
  graphckpt::Rows inputs;
  graphckpt::Rows storages;
  std::vector<int64_t> storage_bytes;
  std::vector<uint8_t> external;
  std::vector<uint8_t> shared;
  std::vector<int32_t> forward_outputs;
  std::vector<int32_t> backward_outputs;
  std::vector<int32_t> tangents;

  explicit graphckpt_graph(const graphckpt_graph_arrays& from)
      : kind(from.kind, from.kind + from.op_count),
        fusible(from.fusible, from.fusible + from.op_count),
        workspace_bytes(from.workspace_bytes, from.workspace_bytes + from.op_count),
        inputs(from.input_offsets, from.inputs, from.op_count),
        storages(from.storage_offsets, from.op_storages, from.op_count),
        storage_bytes(from.storage_bytes, from.storage_bytes + from.storage_count),
        external(from.external, from.external + from.storage_count),
        shared(from.shared, from.shared + from.storage_count),
        forward_outputs(from.forward_outputs, from.forward_outputs + from.forward_output_count),
        backward_outputs(from.backward_outputs, from.backward_outputs + from.backward_output_count) {
    for (int32_t op = 0; op < from.op_count; ++op) {
      if (kind[op] == GRAPHCKPT_TANGENT) tangents.push_back(op);
    }
  }

  int32_t op_count() const { return static_cast<int32_t>(kind.size()); }
};

#endif
