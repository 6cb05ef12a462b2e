// The layers of a transformer but for its attention, on vectors of numbers.
//
//   x <- x + W2 act(W1 norm(x) + b1),   norm(x) = (x - mean) / sqrt(variance + epsilon)
//
// The norms' scales and shifts are in the weights that follow. P vectors go through at a time, so
// that a weight is loaded once for all of them; nothing is ever summed over lanes.
//
// Letters: D width, F perceptron width, K states, O outputs.

#pragma once

#include "network.h"
#include "simd.h"

namespace {

#if defined(__AVX__) && !defined(__AVX512F__)
constexpr int P_MOST = 3;  // 16 registers
#else
constexpr int P_MOST = 4;  // 32
#endif
constexpr int OUTPUTS = 4;   // of a product at a time; weights are packed so
constexpr int HIDDEN = 16;   // perceptron channels at a time, a multiple of OUTPUTS
constexpr int STATES = 32;   // states of a softmax at a time, a multiple of OUTPUTS

// Memory cut into aligned pieces; from null it only counts.
struct Arena {
    char* at;
    template <class X>
    X* take(int64_t n) {
        X* piece = reinterpret_cast<X*>(at);
        at += (n * int64_t(sizeof(X)) + 63) / 64 * 64;
        return piece;
    }
};

struct Layers {
    const Network& net;
    const int64_t length, width, heads, depth, outputs, states;

    // of P vectors, [channel][P]
    V *x, *z, *m, *h, *l;

    Layers(const Network& net, Arena& arena)
        : net(net), length(net.length), width(net.width), heads(net.heads), depth(net.layers),
          outputs(net.outputs), states(net.states) {
        x = arena.take<V>(width * P_MOST);
        z = arena.take<V>(width * P_MOST);
        m = arena.take<V>(width * P_MOST);
        h = arena.take<V>(HIDDEN * P_MOST);
        l = arena.take<V>(STATES * P_MOST);
    }

    static const T* numbers(const void* from) { return static_cast<const T*>(from); }

    // out (n_out, P) = or += W in (n_in, P); w packed, [o / OUTPUTS][k][OUTPUTS], `inputs` long.
    template <int P>
    void multiply(const T* w, int64_t inputs, const V* in, int64_t n_in, V* out, int64_t n_out,
                  const T* bias, bool add) const {
        for (int64_t o = 0; o < n_out; o += OUTPUTS, w += inputs * OUTPUTS) {
            const int64_t n = n_out - o < OUTPUTS ? n_out - o : OUTPUTS;
            V acc[OUTPUTS][P];
            UNROLL for (int r = 0; r < OUTPUTS; ++r)
                UNROLL for (int p = 0; p < P; ++p) acc[r][p] = bias ? all(bias[o + r]) : V{};
            const T* weight = w;
            for (int64_t k = 0; k < n_in; ++k, weight += OUTPUTS) {
                V at[P];
                UNROLL for (int p = 0; p < P; ++p) at[p] = in[k * P + p];
                UNROLL for (int r = 0; r < OUTPUTS; ++r)
                    UNROLL for (int p = 0; p < P; ++p) acc[r][p] += at[p] * weight[r];
            }
            UNROLL for (int r = 0; r < OUTPUTS; ++r) {
                if (r >= n) break;
                UNROLL for (int p = 0; p < P; ++p) {
                    V& to = out[(o + r) * P + p];
                    to = add ? to + acc[r][p] : acc[r][p];  // small terms first: less rounding
                }
            }
        }
    }

    // z (D, P) = (x - mean) / sqrt(variance + epsilon)
    template <int P>
    void normalise() const {
        V mean[P], scale[P];
        UNROLL for (int p = 0; p < P; ++p) mean[p] = scale[p] = V{};
        for (int64_t c = 0; c < width; ++c)
            UNROLL for (int p = 0; p < P; ++p) mean[p] += x[c * P + p];
        UNROLL for (int p = 0; p < P; ++p) mean[p] *= T(1) / T(width);
        for (int64_t c = 0; c < width; ++c)
            UNROLL for (int p = 0; p < P; ++p) {
                const V d = x[c * P + p] - mean[p];
                scale[p] += d * d;
            }
        UNROLL for (int p = 0; p < P; ++p) {
            scale[p] = scale[p] * (T(1) / T(width)) + T(net.epsilon);
            scale[p] = T(1) / root(scale[p]);
        }
        for (int64_t c = 0; c < width; ++c)
            UNROLL for (int p = 0; p < P; ++p) z[c * P + p] = (x[c * P + p] - mean[p]) * scale[p];
    }

    void activate(V* at, int64_t n) const {
        if (net.activation == 0) {
            int64_t i = 0;
            for (; i + 8 <= n; i += 8) gelu<8>(at + i, numbers(net.gelu));
            for (; i < n; ++i) gelu<1>(at + i, numbers(net.gelu));
        } else if (net.activation == 1) {
            for (int64_t i = 0; i < n; ++i) at[i] = at[i] < T(0) ? V{} : at[i];
        } else {
            for (int64_t i = 0; i < n; ++i) at[i] = at[i] / (T(1) + exponential(-at[i]));
        }
    }

    // x += W2 act(W1 norm(x) + b1)
    template <int P>
    void perceive(const Layer& layer) const {
        normalise<P>();
        const int64_t hidden = net.hidden;
        for (int64_t f = 0; f < hidden; f += HIDDEN) {
            const int64_t n = hidden - f < HIDDEN ? hidden - f : HIDDEN;
            multiply<P>(numbers(layer.expand) + f * width, width, z, width, h, n,
                        numbers(layer.expand_shift) + f, false);
            activate(h, n * P);
            multiply<P>(numbers(layer.contract) + f * OUTPUTS, hidden, h, n, x, width, nullptr,
                        true);
        }
    }

    // l (n, P) = head's outputs from k on, of z
    template <int P>
    void score(int64_t k, int64_t n) const {
        const int64_t unused = k < states ? 0 : -states & (OUTPUTS - 1);  // phases begin a block
        const T* weight = numbers(net.head) + (k + unused) * width;
        multiply<P>(weight, width, z, width, l, n, nullptr, false);
    }
};

}  // namespace

extern "C" {
// Outputs that a packed weight holds side by side; coefficients of the activation's polynomial.
int64_t network_outputs() { return OUTPUTS; }
int64_t network_gelu_terms() { return GELU_TERMS; }
}
