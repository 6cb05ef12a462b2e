// ln p of branches of sequences, through a transformer with factored attention.
//
// A branch differs from its sequence in a few tokens, the first of them at place k; positions after
// k are computed again, those up to k are the sequence's own. SIMD lanes are branches: each number
// below is a vector of LANES branches, weights are scalars for all of them, and nothing is ever
// summed over lanes. So a result depends neither on what shares its vector nor on the threads.
//
//   layer 0     y_i = Y0_i + sum_p sum_h a_h(i, p) u_h(p),  u_h = W_p[:, h] (v'_p - v_p)
//               p: altered places; Y0: the sequence's own x_i + W_p mixed_i
//   later       m_i = sum_{j <= k} a_h(i, j) v_j  +  sum_{k < j <= i} a_h(i, j) v'_j
//               the first sum grows with k, once for all branches of a sequence
//   all         x <- x + W2 act(W1 norm(x) + b1), norm without scale and shift: they are in W1, b1
//   head        chosen logit - ln sum exp, states in blocks with a running peak
//
// Positions go through all layers P at a time, so that their activations stay in the first cache.
//
// Letters: T positions, D width, H heads, F perceptron width, K states, O outputs (K, or 2 K with
// phases), V tokens, B sequences of a call, R branches of a group, U rows of the output bias.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "branches.h"
#include "layers.h"

namespace {

constexpr int CHANNELS = 4;  // of attention at a time
constexpr int FACTORS = 60;  // sums of up to 2^16 exponentials whose product a double holds

struct Pass : Layers {
    static constexpr int L = LANES;

    const Work& work;
    const int64_t room;

    // of the sequences, [..][room]
    T* first_output;   // Y0 (T, D)
    T* values;         // (layers - 1, T, D)
    T* prefix;         // (layers - 1, T, D): sum_{j <= k} a(i, j) v_j
    T* logits;         // (T, O)
    double* norms;     // (T): ln sum exp
    double* before;    // (T): ln psi of the tokens before each
    double* turned;    // (T): phase of the same
    int32_t* count;    // (T): what the tokens read before each position add up to
    int64_t reached;   // positions already in `prefix`

    // of the vector at hand
    int32_t row[L];
    int64_t branch[L];
    bool adjacent;     // whether lanes are rows row[0], row[0] + 1, ..
    int64_t start;     // its first position
    int32_t* read;     // (T + 1, L): tokens; read[i + 1] is what position i predicts
    V* own;            // (layers, T, D) values of its positions from `start` on
    V* shared;         // (slots, H, D): u
    V* shift;          // (slots, D): the altered token's vector less the old one's
    int64_t* place;    // (slots,)
    int64_t n_slots;
    double total[L], product[L], phase[L];
    int32_t seen[L], bias_row[P_MOST][L];
    int n_factors;

    Pass(const Network& net, const Work& work, Arena& arena)
        : Layers(net, arena), work(work), room((work.n_sequences + L - 1) / L * L) {
        const int64_t table = length * width;
        first_output = arena.take<T>(table * room);
        values = arena.take<T>((depth - 1) * table * room);
        prefix = arena.take<T>((depth - 1) * table * room);
        logits = arena.take<T>(length * outputs * room);
        norms = arena.take<double>(length * room);
        before = arena.take<double>((length + 1) * room);
        turned = arena.take<double>((length + 1) * room);
        count = arena.take<int32_t>(length * room);
        read = arena.take<int32_t>((length + 1) * L);
        own = arena.take<V>(depth * table);
        shared = arena.take<V>(work.slots * heads * width);
        shift = arena.take<V>(work.slots * width);
        place = arena.take<int64_t>(work.slots);
        reached = 0;
    }

    // Of a table [..][room], the numbers of the lanes' sequences.
    V fetch(const T* table, int64_t entry) const {
        const T* at = table + entry * room;
        if (adjacent) return load(at + row[0]);
        V result;
        for (int lane = 0; lane < L; ++lane) result[lane] = at[row[lane]];
        return result;
    }

    // m (D, P) += sum over own positions j of a_h(i, j) v_j
    template <int P, int C>
    void mix_channels(const T* pairs, const V* v, int64_t i, int64_t c) const {
        V acc[C][P];
        UNROLL for (int r = 0; r < C; ++r)
            UNROLL for (int p = 0; p < P; ++p) acc[r][p] = m[(c + r) * P + p];
        for (int64_t j = start; j < i + P; ++j, v += width) {
            V weight[P];
            UNROLL for (int p = 0; p < P; ++p) weight[p] = all(pairs[j * length + i + p]);
            UNROLL for (int r = 0; r < C; ++r)
                UNROLL for (int p = 0; p < P; ++p) acc[r][p] += v[c + r] * weight[p];
        }
        UNROLL for (int r = 0; r < C; ++r)
            UNROLL for (int p = 0; p < P; ++p) m[(c + r) * P + p] = acc[r][p];
    }

    template <int P>
    void mix(const Layer& layer, const V* v, int64_t i) const {
        const int64_t size = width / heads;
        for (int64_t head = 0; head < heads; ++head) {
            const T* pairs = numbers(layer.pairs) + head * length * length;
            int64_t c = head * size;
            for (; c + CHANNELS <= (head + 1) * size; c += CHANNELS)
                mix_channels<P, CHANNELS>(pairs, v, i, c);
            for (; c < (head + 1) * size; ++c) mix_channels<P, 1>(pairs, v, i, c);
        }
    }

    // x after the attention of layer 0 at positions i .. i + P - 1 of branches
    template <int P>
    void altered_first(int64_t i) const {
        for (int64_t c = 0; c < width; ++c)
            UNROLL for (int p = 0; p < P; ++p)
                x[c * P + p] = fetch(first_output, (i + p) * width + c);
        for (int64_t slot = 0; slot < n_slots && place[slot] < i + P; ++slot) {
            const int64_t at = place[slot];
            if (at >= i)
                for (int64_t c = 0; c < width; ++c) x[c * P + at - i] += shift[slot * width + c];
            for (int64_t head = 0; head < heads; ++head) {
                const T* weight = numbers(net.layer[0].pairs) + (head * length + at) * length + i;
                const V* u = shared + (slot * heads + head) * width;
                for (int64_t c = 0; c < width; ++c)
                    UNROLL for (int p = 0; p < P; ++p) x[c * P + p] += u[c] * weight[p];
            }
        }
    }

    // The same of the sequences themselves, from values of all positions
    template <int P>
    void own_first(int64_t i) const {
        const Layer& layer = net.layer[0];
        UNROLL for (int p = 0; p < P; ++p)
            for (int64_t c = 0; c < width; ++c)
                for (int lane = 0; lane < L; ++lane) {
                    const int64_t token = read[(i + p) * L + lane];
                    x[c * P + p][lane] = numbers(net.embedding)[token * width + c] +
                                         numbers(net.positions)[(i + p) * width + c];
                    own[(i + p) * width + c][lane] =
                        numbers(net.first)[((i + p) * net.tokens + token) * width + c];
                }
        for (int64_t c = 0; c < width * P; ++c) m[c] = V{};
        mix<P>(layer, own, i);
        multiply<P>(numbers(layer.project), width, m, width, x, width, nullptr, true);
        keep<P>(first_output, i, x, width);
    }

    // (n, P) into a table [..][room]
    template <int P>
    void keep(T* table, int64_t i, const V* from, int64_t n) const {
        UNROLL for (int p = 0; p < P; ++p)
            for (int64_t c = 0; c < n; ++c)
                store(table + ((i + p) * n + c) * room + row[0], from[c * P + p]);
    }

    template <int P>
    void attend(int64_t number, int64_t i, bool sequences) {
        const Layer& layer = net.layer[number];
        const int64_t table = (number - 1) * length * width;
        V* mine = own + number * length * width;
        normalise<P>();
        multiply<P>(numbers(layer.values), width, z, width, m, width, numbers(layer.shift), false);
        UNROLL for (int p = 0; p < P; ++p)
            for (int64_t c = 0; c < width; ++c) mine[(i + p - start) * width + c] = m[c * P + p];
        if (sequences) keep<P>(values + table * room, i, m, width);
        for (int64_t c = 0; c < width; ++c)
            UNROLL for (int p = 0; p < P; ++p)
                m[c * P + p] =
                    start ? fetch(prefix + table * room, (i + p) * width + c) : V{};
        mix<P>(layer, mine, i);
        multiply<P>(numbers(layer.project), width, m, width, x, width, nullptr, true);
    }

    // Adds the bias to logits (n, P) of outputs from `first` on.
    template <int P>
    void add_bias(int64_t i, int64_t first, int64_t n) {
        UNROLL for (int p = 0; p < P; ++p) {
            const T* table = numbers(net.bias) + (i + p) * net.bias_rows * outputs + first;
            if (net.bias_rows == 1) {
                for (int64_t k = 0; k < n; ++k) l[k * P + p] += table[k];
                continue;
            }
            for (int lane = 0; lane < L; ++lane) {
                const int64_t u = bias_row[p][lane];
                for (int64_t k = 0; k < n; ++k) l[k * P + p][lane] += table[u * outputs + k];
            }
        }
    }

    // Counts, at most U - 1, of what is read up to each position of a block.
    template <int P>
    void count_on(int64_t i) {
        UNROLL for (int p = 0; p < P; ++p)
            for (int lane = 0; lane < L; ++lane) {
                seen[lane] += int32_t(net.counts[read[(i + p) * L + lane]]);
                const int32_t last = int32_t(net.bias_rows) - 1;
                bias_row[p][lane] = seen[lane] < last ? seen[lane] : last;
            }
    }

    // Logits of positions i .. i + P - 1: the chosen ones into the sums of the vector.
    template <int P>
    void predict(int64_t i, bool sequences) {
        normalise<P>();
        count_on<P>(i);
        V peak[P], sum[P], chosen[P];
        UNROLL for (int p = 0; p < P; ++p) peak[p] = all(-INFINITY), sum[p] = chosen[p] = V{};
        for (int64_t k = 0; k < states; k += STATES) {
            const int64_t n = states - k < STATES ? states - k : STATES;
            score<P>(i, k, n, sequences);
            V top[P];
            UNROLL for (int p = 0; p < P; ++p) top[p] = peak[p];
            for (int64_t r = 0; r < n; ++r)
                UNROLL for (int p = 0; p < P; ++p)
                    top[p] = l[r * P + p] > top[p] ? l[r * P + p] : top[p];
            UNROLL for (int p = 0; p < P; ++p) {
                // all closed so far: nothing to count from yet
                const V base = top[p] == T(-INFINITY) ? V{} : top[p];
                sum[p] *= exponential(peak[p] - base);
                for (int lane = 0; lane < L; ++lane) {
                    const int64_t token = read[(i + p + 1) * L + lane] - k;
                    if (token >= 0 && token < n) chosen[p][lane] = l[token * P + p][lane];
                }
                for (int64_t r = 0; r < n; ++r) sum[p] += exponential(l[r * P + p] - base);
                peak[p] = top[p];
            }
        }
        UNROLL for (int p = 0; p < P; ++p) {
            for (int lane = 0; lane < L; ++lane) {
                total[lane] += double(chosen[p][lane]) - double(peak[p][lane]);
                product[lane] *= double(sum[p][lane]);
                if (sequences)
                    norms[(i + p) * room + row[0] + lane] =
                        double(peak[p][lane]) + std::log(double(sum[p][lane]));
            }
            if (++n_factors == FACTORS) settle();
        }
        if (outputs == states) return;
        if (sequences)
            for (int64_t k = states; k < outputs; k += STATES)
                score<P>(i, k, outputs - k < STATES ? outputs - k : STATES, true);
        else
            turn<P>(i);
    }

    // l (n, P): outputs from k on
    template <int P>
    void score(int64_t i, int64_t k, int64_t n, bool sequences) {
        Layers::score<P>(k, n);
        add_bias<P>(i, k, n);
        if (!sequences) return;
        UNROLL for (int p = 0; p < P; ++p)
            for (int64_t r = 0; r < n; ++r)
                store(logits + ((i + p) * outputs + k + r) * room + row[0], l[r * P + p]);
    }

    // Adds the chosen tokens' phases.
    template <int P>
    void turn(int64_t i) {
        UNROLL for (int p = 0; p < P; ++p)
            for (int lane = 0; lane < L; ++lane) {
                const int64_t token = read[(i + p + 1) * L + lane], u = bias_row[p][lane];
                const T* weight = numbers(net.phases) + token * width;
                const T* bias = numbers(net.bias) + ((i + p) * net.bias_rows + u) * outputs;
                T sum = bias[states + token];
                for (int64_t c = 0; c < width; ++c) sum += weight[c] * z[c * P + p][lane];
                phase[lane] += double(sum);
            }
    }

    // Turns the product of sums into a logarithm before it leaves a double's range.
    void settle() {
        for (int lane = 0; lane < L; ++lane) total[lane] -= std::log(product[lane]);
        for (int lane = 0; lane < L; ++lane) product[lane] = 1;
        n_factors = 0;
    }

    template <int P>
    void run_block(int64_t i, bool sequences) {
        if (sequences)
            own_first<P>(i);
        else
            altered_first<P>(i);
        perceive<P>(net.layer[0]);
        for (int64_t number = 1; number < depth; ++number) {
            attend<P>(number, i, sequences);
            perceive<P>(net.layer[number]);
        }
        predict<P>(i, sequences);
    }

    // Positions from `start` on through the network, in blocks that begin at multiples of P_MOST.
    void run(bool sequences) {
        for (int lane = 0; lane < L; ++lane) total[lane] = phase[lane] = 0, product[lane] = 1;
        n_factors = 0;
        for (int64_t i = start; i < length;) {
            const int64_t aligned = (i / P_MOST + 1) * P_MOST;
            const int64_t n = (aligned < length ? aligned : length) - i;
            if (n == 1) run_block<1>(i, sequences);
            if (n == 2) run_block<2>(i, sequences);
            if (n == 3) run_block<3>(i, sequences);
            if constexpr (P_MOST > 3)
                if (n == 4) run_block<4>(i, sequences);
            i += n;
        }
        settle();
    }

    // All there is to know of the sequences themselves.
    void read_sequences() {
        for (int64_t begin = 0; begin < work.n_sequences; begin += L) {
            start = 0;
            adjacent = true;
            for (int lane = 0; lane < L; ++lane) {
                row[lane] = int32_t(begin + lane);
                seen[lane] = 0;
                const int64_t last = work.n_sequences - 1;
                const int64_t b = begin + lane < last ? begin + lane : last;
                read[lane] = int32_t(net.tokens - 1);
                for (int64_t t = 0; t < length; ++t)
                    read[(t + 1) * L + lane] = work.tokens[b * length + t];
            }
            run(true);
            for (int lane = 0; lane < L; ++lane) sum_up(begin + lane, lane);
        }
    }

    // ln psi, phase and count before each place of one sequence.
    void sum_up(int64_t b, int lane) {
        before[b] = turned[b] = 0;
        int64_t n = 0;
        for (int64_t t = 0; t < length; ++t) {
            const int64_t token = read[(t + 1) * L + lane];
            n += net.counts[read[t * L + lane]];
            count[t * room + b] = int32_t(n);
            const T* logit = logits + t * outputs * room + b;
            before[(t + 1) * room + b] =
                before[t * room + b] + 0.5 * (double(logit[token * room]) - norms[t * room + b]);
            if (outputs > states)
                turned[(t + 1) * room + b] =
                    turned[t * room + b] + double(logit[(states + token) * room]);
        }
        if (!work.own || b >= work.n_sequences) return;
        double* to = work.own + b * (outputs > states ? 2 : 1);
        to[0] = before[length * room + b];
        if (outputs > states) to[1] = turned[length * room + b];
    }

    // Adds positions up to k to the prefix sums of those after it.
    void extend_prefix(int64_t k) {
        const int64_t size = width / heads;
        for (int64_t number = 1; number < depth; ++number) {
            const int64_t table = (number - 1) * length * width;
            for (int64_t j = reached; j <= k; ++j)
                for (int64_t i = k + 1; i < length; ++i)
                    for (int64_t c = 0; c < width; ++c) {
                        const T a = numbers(net.layer[number].pairs)
                            [(c / size * length + j) * length + i];
                        const T* v = values + (table + j * width + c) * room;
                        T* sum = prefix + (table + i * width + c) * room;
                        for (int64_t b = 0; b < room; b += L)
                            store(sum + b, load(sum + b) + load(v + b) * a);
                    }
        }
        reached = k + 1 > reached ? k + 1 : reached;
    }

    // The altered places of the vector's branches and what they change in layer 0.
    void find_slots() {
        n_slots = 0;
        for (int64_t i = start; i < length; ++i) {
            int32_t change = 0;
            for (int lane = 0; lane < L; ++lane)
                change |= work.changes[branch[lane] * length + i - 1];
            if (change) place[n_slots++] = i;
        }
        for (int64_t slot = 0; slot < n_slots; ++slot) {
            const int64_t i = place[slot];
            for (int lane = 0; lane < L; ++lane) {
                const int64_t now = read[i * L + lane];
                const int64_t old = now ^ work.changes[branch[lane] * length + i - 1];
                const T* vectors = numbers(net.embedding);
                const T* table = numbers(net.first) + i * net.tokens * width;
                for (int64_t c = 0; c < width; ++c) {
                    shift[slot * width + c][lane] =
                        vectors[now * width + c] - vectors[old * width + c];
                    z[c][lane] = table[now * width + c] - table[old * width + c];
                }
            }
            const int64_t size = width / heads;
            for (int64_t head = 0; head < heads; ++head)
                multiply<1>(numbers(net.layer[0].project) + head * size * OUTPUTS, width,
                            z + head * size, size, shared + (slot * heads + head) * width, width,
                            nullptr, false);
        }
    }

    // ln psi of `n` branches at hand into the result; lanes from n on repeat the first.
    void score_vector(int64_t k, int n) {
        for (int lane = n; lane < L; ++lane) row[lane] = row[0], branch[lane] = branch[0];
        adjacent = true;
        for (int lane = 0; lane < L; ++lane) adjacent = adjacent && row[lane] == row[0] + lane;
        for (int lane = 0; lane < L; ++lane) {
            const int32_t* change = work.changes + branch[lane] * length;
            const int32_t* tokens = work.tokens + row[lane] * length;
            for (int64_t t = k; t < length; ++t)
                read[(t + 1) * L + lane] = tokens[t] ^ change[t];
            seen[lane] = count[k * room + row[lane]];
        }
        start = k + 1;
        if (start < length) find_slots();
        run(false);
        const bool turns = outputs > states;
        for (int lane = 0; lane < n; ++lane) {
            const int64_t b = row[lane], token = read[start * L + lane];
            const T* logit = logits + k * outputs * room + b;
            const double at_first = double(logit[token * room]) - norms[k * room + b];
            double* to = work.result + (b * work.n_branches + branch[lane]) * (turns ? 2 : 1);
            to[0] = before[k * room + b] + 0.5 * at_first + 0.5 * total[lane];
            if (turns)
                to[1] = turned[k * room + b] + double(logit[(states + token) * room]) + phase[lane];
        }
    }

    void score_group(int64_t k, const int64_t* own_branches, int64_t n_own) {
        if (k + 1 < length) extend_prefix(k);
        int n = 0;
        for (int64_t f = 0; f < n_own; ++f)
            for (int64_t b = 0; b < work.n_sequences; ++b) {
                if (work.needed && !work.needed[b * work.n_branches + own_branches[f]]) continue;
                row[n] = int32_t(b);
                branch[n] = own_branches[f];
                if (++n == L) {
                    score_vector(k, n);
                    n = 0;
                }
            }
        if (n) score_vector(k, n);
    }

    void score_all() {
        read_sequences();
        if (work.n_groups)
            std::memset(prefix, 0, sizeof(T) * size_t((depth - 1) * length * width * room));
        int64_t begin = 0;
        for (int64_t group = 0; group < work.n_groups; ++group) {
            score_group(work.first[group], work.order + begin, work.ends[group] - begin);
            begin = work.ends[group];
        }
    }
};

}  // namespace

extern "C" {
// Bytes of scratch memory of a call.
int64_t branch_scratch(const Network* net, const Work* work) {
    Arena arena{nullptr};
    Pass pass(*net, *work, arena);
    return arena.at - static_cast<char*>(nullptr) + 64;
}

void branch_scores(const Network* net, const Work* work) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(work->scratch);
    Arena arena{reinterpret_cast<char*>((at + 63) / 64 * 64)};
    Pass(*net, *work, arena).score_all();
}
}
