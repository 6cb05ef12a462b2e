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
    int64_t n_slots, length;         // how many, and how many positions of each
    const int32_t *sources, *targets;
    const void* source;              // values, as above
    void* target;
    const int32_t* source_counts;
    int32_t* target_counts;
};
}
