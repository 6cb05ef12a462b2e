// The arguments of a call of branches.cpp, beside the network.

#pragma once

#include "network.h"

extern "C" {
// What the host fills in, field by field as in branches.py.
struct Work {
    int64_t n_sequences, n_branches, n_groups, slots;
    const int32_t* tokens;     // (B, T)
    const int32_t* changes;    // (G, T), xored to the tokens
    const int64_t* first;      // (groups,): k, ascending
    const int64_t* ends;       // (groups,): end of each group in `order`
    const int64_t* order;      // (G,): branches, group by group
    const uint8_t* needed;     // (B, G) or null: all
    double* result;            // (B, G), or (B, G, 2) with phases
    double* own;               // (B,) or (B, 2), of the sequences themselves; or null
    void* scratch;             // as many bytes as branch_scratch says
};
}
