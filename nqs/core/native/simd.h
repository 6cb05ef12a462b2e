// Vectors of numbers, one branch a lane: float, or double with DOUBLE defined.

#pragma once

#include <cmath>
#include <cstdint>

namespace {

// Loops of constant length are unrolled, so that what they work on can stay in registers.
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif

#ifdef DOUBLE
using T = double;
using Integer = int64_t;
constexpr int TERMS = 13, EXPONENT = 1023, MANTISSA = 52, GELU_TERMS = 38;
constexpr T ROUND = 6755399441055744.0;  // 1.5 2^52: added, it rounds to an integer
constexpr T LARGEST = 708.0, LN2_HIGH = 6.93145751953125e-1, LN2_LOW = 1.42860682030941723212e-6;
#else
using T = float;
using Integer = int32_t;
constexpr int TERMS = 7, EXPONENT = 127, MANTISSA = 23, GELU_TERMS = 15;
constexpr T ROUND = 12582912.0f;  // 1.5 2^23
constexpr T LARGEST = 87.0f, LN2_HIGH = 0.693359375f, LN2_LOW = -2.12194440e-4f;
#endif

typedef T V __attribute__((vector_size(BYTES)));
typedef T Loose __attribute__((vector_size(BYTES), aligned(sizeof(T)), may_alias));
typedef Integer I __attribute__((vector_size(BYTES)));
constexpr int LANES = BYTES / int(sizeof(T));

inline V load(const T* from) {
    return *reinterpret_cast<const Loose*>(from);
}
inline void store(T* to, V x) {
    *reinterpret_cast<Loose*>(to) = x;
}
inline V all(T x) {
    return x - V{};
}

// exp(x) for |x| up to LARGEST, clamped there; NaN stays NaN.
inline V exponential(V x) {
    x = x < -LARGEST ? all(-LARGEST) : x;
    x = x > LARGEST ? all(LARGEST) : x;
    const V shifted = x * T(1.4426950408889634) + ROUND;
    const V n = shifted - ROUND;
    const V r = (x - n * LN2_HIGH) - n * LN2_LOW;
    V sum = all(1);  // 1 + r (1 + r / 2 (1 + r / 3 (...)))
    UNROLL for (int term = TERMS; term > 0; --term) sum = sum * (r * (T(1) / term)) + T(1);
    const auto bits = (I)shifted - (I)all(ROUND) + EXPONENT;
    return sum * (V)(bits << MANTISSA);
}

inline V root(V x) {
    alignas(BYTES) T lanes[LANES];
    store(lanes, x);
    for (int lane = 0; lane < LANES; ++lane) lanes[lane] = std::sqrt(lanes[lane]);
    return load(lanes);
}

// x Phi(x), Phi(x) = 1/2 + x q(x^2) up to where Phi is 0 or 1; N vectors.
// terms: of q, from the highest power of 2 x^2 / clamp^2 - 1, then the clamp.
template <int N>
inline void gelu(V* at, const T* terms) {
    const T clamp = terms[GELU_TERMS], scale = 2 / (clamp * clamp);
    V s[N], q[N];
    UNROLL for (int i = 0; i < N; ++i) {
        V c = at[i] < -clamp ? all(-clamp) : at[i];
        c = c > clamp ? all(clamp) : c;
        s[i] = c * c * scale - T(1);
        q[i] = all(terms[0]);
    }
    for (int term = 1; term < GELU_TERMS; ++term)
        UNROLL for (int i = 0; i < N; ++i) q[i] = q[i] * s[i] + terms[term];
    UNROLL for (int i = 0; i < N; ++i) {
        const V low = at[i] < -clamp ? all(-clamp) : at[i];
        const V c = low > clamp ? all(clamp) : low;
        at[i] = low * (c * q[i] + T(0.5));
    }
}

}  // namespace
