// The next token of many sequences, through a transformer with factored attention.
//
// Each sequence reads one token at position t, with what it has kept of the positions before:
//
//   m_t = sum_{j <= t} a_h(t, j) v_j,   x <- x + W_p m_t,   x <- x + W2 act(W1 norm(x) + b1)
//
// SIMD lanes are sequences, P_MOST vectors of them at a time, and nothing is ever summed over lanes:
// so a result depends neither on what shares its vector nor on the threads. Fewer vectors at a time
// would be other code, which a compiler may round otherwise. A vector's values lie together,
// position after position, as they are read.
//
// Letters: T positions, D width, H heads, K states, O outputs (K, or 2 K with phases), V tokens,
// R sequences.

#include <cstdint>

#include "layers.h"
#include "steps.h"

namespace {

constexpr int CHANNELS = 8;  // of attention at a time

struct Stepper : Layers {
    static constexpr int L = LANES;

    const Step& step;
    const int64_t place, tile_size;
    T* weights;        // (H, t + 1): a_h(t, j)
    int64_t first;     // the first tile of the call
    int32_t* token;    // (tiles, L) of the call
    int32_t* row;      // (tiles, L): -1 where no row lies

    Stepper(const Network& net, const Step& step, int64_t first, int64_t end, Arena& arena)
        : Layers(net, arena), step(step), place(step.place),
          tile_size(depth * length * width * L), first(first) {
        weights = arena.take<T>(heads * (place + 1));
        token = arena.take<int32_t>((end - first) * L);
        row = arena.take<int32_t>((end - first) * L);
    }

    // Values of one position and layer, (D, L).
    T* kept(int64_t tile, int64_t layer, int64_t position) const {
        return static_cast<T*>(step.values) + tile * tile_size +
               (layer * length + position) * width * L;
    }

    void find_rows(int64_t end) {
        for (int64_t slot = 0; slot < (end - first) * L; ++slot) token[slot] = 0, row[slot] = -1;
        for (int64_t r = 0; r < step.n_rows; ++r) {
            const int64_t slot = step.slots[r] - first * L;
            if (slot < 0 || slot >= (end - first) * L) continue;
            token[slot] = int32_t(step.tokens[r]);
            row[slot] = int32_t(r);
        }
    }

    template <int P>
    void embed(int64_t tile) const {
        const T* position = numbers(net.positions) + place * width;
        const T* values = numbers(net.first) + place * net.tokens * width;
        UNROLL for (int p = 0; p < P; ++p) {
            T* own = kept(tile + p, 0, place);
            for (int lane = 0; lane < L; ++lane) {
                const int64_t read = token[(tile + p - first) * L + lane];
                const T* vector = numbers(net.embedding) + read * width;
                for (int64_t c = 0; c < width; ++c) {
                    x[c * P + p][lane] = vector[c] + position[c];
                    own[c * L + lane] = values[read * width + c];
                }
            }
        }
    }

    // m of C channels of a head with weights a (t + 1,)
    template <int P, int C>
    void mix_channels(const T* a, int64_t tile, int64_t layer, int64_t c) const {
        UNROLL for (int p = 0; p < P; ++p) {
            const T* v = kept(tile + p, layer, 0) + c * L;
            V acc[C];
            UNROLL for (int r = 0; r < C; ++r) acc[r] = V{};
            for (int64_t j = 0; j <= place; ++j, v += width * L)
                UNROLL for (int r = 0; r < C; ++r) acc[r] += load(v + r * L) * a[j];
            UNROLL for (int r = 0; r < C; ++r) m[(c + r) * P + p] = acc[r];
        }
    }

    // x += W_p m
    template <int P>
    void attend(int64_t tile, int64_t number) const {
        const Layer& layer = net.layer[number];
        const int64_t size = width / heads;
        for (int64_t head = 0; head < heads; ++head) {
            T* a = weights + head * (place + 1);
            for (int64_t j = 0; j <= place; ++j)
                a[j] = numbers(layer.pairs)[(head * length + j) * length + place];
            int64_t c = head * size;
            const int64_t end = c + size;
            for (; c + CHANNELS <= end; c += CHANNELS)
                mix_channels<P, CHANNELS>(a, tile, number, c);
            for (; c < end; ++c) mix_channels<P, 1>(a, tile, number, c);
        }
        multiply<P>(numbers(layer.project), width, m, width, x, width, nullptr, true);
    }

    // Values of the token that is read, in all layers but the first.
    template <int P>
    void keep_values(int64_t tile, int64_t number) const {
        const Layer& layer = net.layer[number];
        normalise<P>();
        multiply<P>(numbers(layer.values), width, z, width, m, width, numbers(layer.shift), false);
        UNROLL for (int p = 0; p < P; ++p) {
            T* own = kept(tile + p, number, place);
            for (int64_t c = 0; c < width; ++c) store(own + c * L, m[c * P + p]);
        }
    }

    template <int P>
    void predict(int64_t tile) const {
        normalise<P>();
        const T* bias[P][L];
        UNROLL for (int p = 0; p < P; ++p)
            for (int lane = 0; lane < L; ++lane) {
                int32_t& seen = step.counts[(tile + p) * L + lane];
                seen += int32_t(net.counts[token[(tile + p - first) * L + lane]]);
                const int64_t u = seen < net.bias_rows - 1 ? seen : net.bias_rows - 1;
                bias[p][lane] = numbers(net.bias) + (place * net.bias_rows + u) * outputs;
            }
        for (int64_t k = 0; k < outputs;) {
            const int64_t end = k < states ? states : outputs;
            const int64_t n = end - k < STATES ? end - k : STATES;
            score<P>(k, n);
            UNROLL for (int p = 0; p < P; ++p)
                for (int lane = 0; lane < L; ++lane) {
                    const int64_t r = row[(tile + p - first) * L + lane];
                    if (r < 0) continue;
                    T* to = static_cast<T*>(step.logits) + r * outputs + k;
                    const T* added = bias[p][lane] + k;
                    for (int64_t o = 0; o < n; ++o) to[o] = l[o * P + p][lane] + added[o];
                }
            k += n;
        }
    }

    template <int P>
    void run_tiles(int64_t tile) const {
        embed<P>(tile);
        for (int64_t number = 0; number < depth; ++number) {
            if (number > 0) keep_values<P>(tile, number);
            attend<P>(tile, number);
            perceive<P>(net.layer[number]);
        }
        predict<P>(tile);
    }

    void run(int64_t end) {
        find_rows(end);
        for (int64_t tile = first; tile < end; tile += P_MOST) run_tiles<P_MOST>(tile);
    }
};

// What a sequence has kept of `length` positions, from one slot into another.
void copy_slot(const Network& net, int64_t length, const void* source, int64_t from, void* target,
               int64_t to) {
    const int64_t size = net.width * LANES, tile_size = net.layers * net.length * size;
    for (int64_t layer = 0; layer < net.layers; ++layer) {
        const int64_t begin = layer * net.length * size;
        const T* read = static_cast<const T*>(source) + from / LANES * tile_size + begin +
                        from % LANES;
        T* write = static_cast<T*>(target) + to / LANES * tile_size + begin + to % LANES;
        for (int64_t c = 0; c < length * size; c += LANES) write[c] = read[c];
    }
}

// Whether rows are 0 .. n_rows - 1, each at least once, in this order.
bool all_go_on(const Branching& branching) {
    const int64_t* rows = branching.rows;
    const int64_t n = branching.n_after;
    if (n == 0 || rows[0] != 0 || rows[n - 1] != branching.n_rows - 1) return false;
    for (int64_t i = 1; i < n; ++i)
        if (rows[i] != rows[i - 1] && rows[i] != rows[i - 1] + 1) return false;
    return true;
}

}  // namespace

extern "C" {
// Sequences of a tile; tiles that go through the layers together.
int64_t step_lanes() { return LANES; }
int64_t step_tiles() { return P_MOST; }

// Bytes of scratch memory of a call.
int64_t step_scratch(const Network* net, const Step* step, int64_t first, int64_t end) {
    Arena arena{nullptr};
    Stepper stepper(*net, *step, first, end, arena);
    return arena.at - static_cast<char*>(nullptr) + 64;
}

// Reads a token of all sequences of tiles first .. end - 1, both multiples of step_tiles().
void step_forward(const Network* net, const Step* step, int64_t first, int64_t end, void* scratch) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(scratch);
    Arena arena{reinterpret_cast<char*>((at + 63) / 64 * 64)};
    Stepper(*net, *step, first, end, arena).run(end);
}

// What sequences have kept, for others to go on with.
void step_copy(const Network* net, const Copy* copy) {
    for (int64_t r = 0; r < copy->n_rows; ++r) {
        const int64_t from = copy->slots[r];
        copy->new_counts[r] = copy->counts[from];
        copy_slot(*net, copy->length, copy->values, from, copy->new_values, r);
    }
}

// Rows go on as branches: the first of each in its slot, the others in new ones. Returns 0, and
// changes nothing, unless rows are 0 .. n_rows - 1, each at least once, in this order.
int64_t step_branch(const Network* net, const Branching* branching) {
    if (!all_go_on(*branching)) return 0;
    const int64_t* rows = branching->rows;
    int32_t next = int32_t(branching->n_rows);
    for (int64_t i = 0; i < branching->n_after; ++i) {
        const int32_t from = branching->slots[rows[i]];
        branching->after[i] = from;
        if (i == 0 || rows[i] != rows[i - 1]) continue;
        branching->after[i] = next;
        branching->counts[next] = branching->counts[from];
        copy_slot(*net, branching->length, branching->values, from, branching->values, next++);
    }
    return 1;
}
}
