// A network as the host packs it, for all sources of this folder.

#pragma once

#include <cstdint>

// What the host fills in, field by field as in network.py. Pointers to void: to numbers of the
// type that the source is compiled for.
extern "C" {
struct Layer {
    const void* pairs;     // (H, T, T), [h][j][i] = a_h(i, j), 0 for j > i
    const void* values;    // packed D -> D (not in layer 0)
    const void* shift;     // (D,) of values
    const void* project;   // packed D -> D
    const void* expand;    // packed D -> F
    const void* expand_shift;  // (F,)
    const void* contract;  // packed F -> D
};
struct Network {
    int64_t length, width, heads, hidden, states, outputs, tokens, layers;
    int64_t bias_rows;       // U: 1, or counts that the bias depends on
    int64_t activation;      // 0 gelu, 1 relu, 2 silu
    double epsilon;          // of the norms
    const Layer* layer;
    const void* embedding;   // (V, D)
    const void* positions;   // (T, D)
    const void* first;       // (T, V, D): values of layer 0
    const void* head;        // packed D -> K, then packed D -> O - K
    const void* phases;      // (O - K, D), the head again, unpacked
    const void* bias;        // (T, U, O), the head's own included
    const int64_t* counts;   // (V,): what a token adds to the count
    const void* gelu;        // (GELU_TERMS,), from the highest power, then the clamp
};
}
