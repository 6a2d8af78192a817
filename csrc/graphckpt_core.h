// The C interface of the planner's core. Plain C types and flat arrays: no torch, no Python headers.
//
// A graph is handed over once, as compressed rows: row i of a list is values[offsets[i]] .. values[offsets[i + 1] - 1].
// Arrays are copied; nothing given out is kept. Every function may be called from several threads at once on one graph.
#ifndef GRAPHCKPT_CORE_H
#define GRAPHCKPT_CORE_H

#include <stdint.h>

#define GRAPHCKPT_API __attribute__((visibility("default")))

// Raised by one with every change of this header; the loader refuses another number.
#define GRAPHCKPT_ABI_VERSION 6

#ifdef __cplusplus
extern "C" {
#endif

enum graphckpt_kind { GRAPHCKPT_INPUT = 0, GRAPHCKPT_TANGENT = 1, GRAPHCKPT_COMPUTE = 2, GRAPHCKPT_ALIAS = 3 };

enum graphckpt_status {
  GRAPHCKPT_OK = 0,
  GRAPHCKPT_BAD_STEP = 1,          // culprit: position in forward then backward of what is no operation to compute
  GRAPHCKPT_NOT_FUSIBLE = 2,       // culprit: an operation that is virtual and may not be
  GRAPHCKPT_OUT_OF_MEMORY = 3,
  GRAPHCKPT_RUNS_ONCE = 4,         // culprit: an operation that would have to run again and may not
};

typedef struct graphckpt_graph graphckpt_graph;

typedef struct {
  int32_t op_count;
  const uint8_t* kind;             // [op_count], a graphckpt_kind each
  const uint8_t* fusible;          // [op_count]
  const int64_t* workspace_bytes;  // [op_count]
  const int64_t* input_offsets;    // [op_count + 1]
  const int32_t* inputs;
  const int64_t* storage_offsets;  // [op_count + 1]
  const int32_t* op_storages;
  int32_t storage_count;
  const int64_t* storage_bytes;    // [storage_count]
  const uint8_t* external;         // [storage_count]
  const uint8_t* shared;           // [storage_count]
  int64_t forward_output_count;
  const int32_t* forward_outputs;
  int64_t backward_output_count;
  const int32_t* backward_outputs;
} graphckpt_graph_arrays;

typedef struct {
  int64_t peak_bytes;
  int64_t peak_step;               // -1 if there is no step
  int64_t forward_peak_bytes;
  int64_t backward_peak_bytes;
  int64_t culprit;                 // meaning: see graphckpt_status
} graphckpt_peak;

GRAPHCKPT_API int32_t graphckpt_abi_version(void);

// Indices are taken to be in range (check_graph). NULL if there is no memory.
GRAPHCKPT_API graphckpt_graph* graphckpt_graph_new(const graphckpt_graph_arrays* arrays);
GRAPHCKPT_API void graphckpt_graph_free(graphckpt_graph* graph);

// The timeline of a plan, by the rules in graphckpt/ir/peak.py. Returns a graphckpt_status.
//   materialised: [op_count], or NULL for all
//   live_bytes:   [forward_count + backward_count], written
//   held:         [op_count], written: 1 for operations that hold memory at the peak; or NULL
GRAPHCKPT_API int32_t graphckpt_timeline(const graphckpt_graph* graph, const uint8_t* materialised,
                                         const int32_t* forward, int64_t forward_count,
                                         const int32_t* backward, int64_t backward_count,
                                         int64_t* live_bytes, uint8_t* held, graphckpt_peak* peak);

// The backward pass with what it misses computed just before it is read; graphckpt/solve/backward.py says how and is the reference.
// Returns a graphckpt_status; *count is then the culprit: on GRAPHCKPT_RUNS_ONCE an operation, on GRAPHCKPT_BAD_STEP a position.
//   at_hand:  [op_count], 1: there when backward starts
//   once:     [op_count], 1: may not be computed here
//   shared:   [op_count], 1: a copy that one segment made serves the others
//   segment:  [op_count], the segment that reading this operation's value points to, or -1
//   steps:    [capacity], written as far as it reaches; *count: how many there are, which may be more than that
GRAPHCKPT_API int32_t graphckpt_demand(const graphckpt_graph* graph, const uint8_t* at_hand, const uint8_t* once,
                                       const uint8_t* shared, const int32_t* segment, int32_t last_segment,
                                       const int32_t* backward, int64_t backward_count, int32_t* steps, int64_t capacity,
                                       int64_t* count);

// An edge of this capacity may not be cut.
#define GRAPHCKPT_UNCUTTABLE (INT64_C(1) << 60)

// The smallest cut between two different nodes of a network whose edges run from[e] -> to[e]. Returns a graphckpt_status.
//   capacity:    [edge_count], 0 to GRAPHCKPT_UNCUTTABLE; the sum of the others must stay below that
//   source_side: [node_count], written: 1 for what the source still reaches, which is the smallest of the smallest cuts
//   value:       written: the capacity of the cut; GRAPHCKPT_UNCUTTABLE or more if there is none
GRAPHCKPT_API int32_t graphckpt_min_cut(int32_t node_count, int64_t edge_count, const int32_t* from, const int32_t* to,
                                        const int64_t* capacity, int32_t source, int32_t sink, uint8_t* source_side,
                                        int64_t* value);

// A rematerialization problem; graphckpt/solve/remat/ says what peak and cost are. Inputs are in range and the graph has no cycle.
// The last three are for searches alone: the proof takes no notice of them.
typedef struct {
  int32_t node_count;
  const int64_t* cost;             // [node_count], 0 or more
  const int64_t* size_bytes;       // [node_count], 0 or more; all together, and the costs, below 2^53 / (steps of a schedule)
  const uint8_t* once;             // [node_count], 1: may not be computed again
  const int64_t* input_offsets;    // [node_count + 1]
  const int32_t* inputs;
  const int64_t* scratch_bytes;    // [node_count], taken beside everything else while the node is computed
  const uint8_t* writes_over;      // [node_count], 1: writes over an input of its size that it is the last to read
  const uint8_t* shared;           // [node_count], 1: is written over by none
} graphckpt_remat_instance;

enum graphckpt_remat_goal { GRAPHCKPT_REMAT_CHEAPEST = 0, GRAPHCKPT_REMAT_SMALLEST = 1 };

// Asked some ten times a second, in the calling thread. Anything but 0 ends the search, which keeps what it found.
// best_cost and best_peak are -1 while there is no plan.
typedef int32_t (*graphckpt_remat_progress)(void* context, double seconds, int64_t iterations, int64_t best_cost, int64_t best_peak);

typedef struct {
  int32_t goal;                    // a graphckpt_remat_goal
  int32_t fixed_order;             // 1: first computations in the order 0 .. node_count - 1
  int64_t budget_bytes;
  uint64_t seed;
  int64_t iterations;              // the search is so many moves long, up to the next 256; 0: as many as there is time for
  double seconds;                  // and ends then at the latest
  int64_t cost_floor;              // ends when a plan costs no more than this
  const int32_t* start;            // [start_count], a schedule in which every read finds a value
  int64_t start_count;
  graphckpt_remat_progress progress;  // or NULL
  void* context;
} graphckpt_remat_options;

typedef struct {
  int32_t found;                   // 1: there is a plan within the budget
  int64_t count;                   // its steps
  int64_t iterations;
  double seconds;
} graphckpt_remat_result;

// Looks for a schedule of the goal. Returns a graphckpt_status.
//   steps: [capacity], written: the plan if one was found, else the schedule nearest to the budget. No schedule becomes longer.
GRAPHCKPT_API int32_t graphckpt_remat_search(const graphckpt_remat_instance* instance, const graphckpt_remat_options* options,
                                             int32_t* steps, int64_t capacity, graphckpt_remat_result* result);

enum graphckpt_remat_outcome {
  GRAPHCKPT_REMAT_FOUND = 0,         // no schedule is cheaper than the one that was written
  GRAPHCKPT_REMAT_NONE_CHEAPER = 1,  // than options.cost_floor
  GRAPHCKPT_REMAT_INFEASIBLE = 2,
  GRAPHCKPT_REMAT_STOPPED = 3        // by the time, the number of states or who watches
};

typedef struct {
  int32_t outcome;                 // a graphckpt_remat_outcome
  int64_t extra_cost;              // no schedule costs less than this above each node once
  int64_t count;                   // steps of the schedule; 0 if none was found
  int64_t states;
  double seconds;
} graphckpt_remat_proof;

// What no schedule can beat, by a search over sets of live values. Returns a graphckpt_status. Of the options these count: fixed_order,
// budget_bytes, seconds, progress, and cost_floor as the cost of the plan to beat (-1: there is none).
//   steps: [capacity], written if a schedule was found, as far as it reaches
GRAPHCKPT_API int32_t graphckpt_remat_prove(const graphckpt_remat_instance* instance, const graphckpt_remat_options* options,
                                            int64_t most_states, int32_t* steps, int64_t capacity, graphckpt_remat_proof* proof);

typedef struct {
  uint32_t seed;
  double probability;              // an element is kept where its number is above it
  int64_t blocks;                  // matrices: batches times heads
  int64_t rows, columns;           // of one whole matrix
  int64_t first_row, last_row;     // the part that is wanted: last ones not counted
  int64_t first_column, last_column;
} graphckpt_dropout_part;

// Which elements of a part of (blocks, rows, columns) dropout keeps: element i of the whole has the number that Inductor's
// generated CPU code draws for seed and i.
//   kept: [blocks * (last_row - first_row) * (last_column - first_column)], 1 or 0
GRAPHCKPT_API void graphckpt_dropout_kept(const graphckpt_dropout_part* part, uint8_t* kept);

#ifdef __cplusplus
}
#endif
#endif
