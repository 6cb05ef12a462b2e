// The arguments of a call of steps.cpp, beside the network.

#pragma once

#include "network.h"

extern "C" {
// What the host fills in, field by field as in steps.py. Sequences lie in slots, LANES of them a
// tile: slot s is lane s % LANES of tile s / LANES.
struct Step {
    int64_t n_rows, place;   // R, t: the position that reads `tokens`
    const int64_t* tokens;   // (R,)
    const int32_t* slots;    // (R,): where each row lies, all different
    void* values;            // (tiles, layers, T, D, LANES)
    int32_t* counts;         // (tiles, LANES): of all tokens before
    void* logits;            // (R, O)
};
struct Copy {
    int64_t n_rows, length;  // R, and how many positions of each
    const int32_t* slots;    // (R,): where rows lie; they go into slots 0 .. R - 1
    const void* values;      // as above
    const int32_t* counts;
    void* new_values;
    int32_t* new_counts;
};
struct Branching {
    int64_t n_rows, n_after, length;
    const int64_t* rows;     // (n_after,): which row each branch continues
    const int32_t* slots;    // (n_rows,): all of 0 .. n_rows - 1
    int32_t* after;          // (n_after,): the same of the branches
    void* values;            // as above, with room for n_after
    int32_t* counts;
};
}
