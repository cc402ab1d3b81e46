// CPU kernels of the sampling family: raw pointers and sizes, no torch.
//
// T is the storage type (float, double, Half, BFloat16), A = arithmetic_t<T> the type of sums and band
// weights. All tensors are contiguous. Every function works on a range of independent rows, so that a caller
// can spread the ranges over threads; what a row holds afterwards does not depend on the ranges.
#pragma once

#include <cstdint>
#include <utility>

#include "common/half.h"
#include "common/isa.h"
#include "sampling/taps.h"

namespace integralrob {

// From this inner length on, samples of one axis are independent rows of their own.
constexpr int64_t kWideRow = 16;

// One sampled axis: `nodes` inputs, `points()` outputs, each a run of `inner` numbers.
template <typename A>
struct Axis {
    int64_t nodes, inner;
    Taps<A> taps;
    Tiles<A> tiles;  // only where the inner length is 1

    Axis(int64_t nodes_, int64_t inner_, Taps<A> taps_)
        : nodes(nodes_),
          inner(inner_),
          taps(std::move(taps_)),
          tiles(inner == 1 ? Tiles<A>(taps) : Tiles<A>()) {}

    int64_t points() const { return taps.rows(); }
};

#define INTEGRALROB_DECLARE_SAMPLING(ISA)                                                                    \
    namespace ISA {                                                                                          \
    /* values [L, S, R] -> out [L, M, R]; rows: l if R < kWideRow, else (l, m) */                            \
    template <typename T>                                                                                    \
    void sample_1d(const T* values, const Axis<arithmetic_t<T>>& axis, T* out, int64_t begin, int64_t end);  \
    /* values [S0, S1, R] -> out [M0, M1, R]; rows: o */                                                     \
    template <typename T>                                                                                    \
    void sample_2d(const T* values, const Taps<arithmetic_t<T>>& taps0, const Axis<arithmetic_t<T>>& axis1,  \
                   T* out, int64_t begin, int64_t end);                                                      \
    /* partial[m, t] += Σ_{l in range, r} grad[l, m, r] values[l, start[m] + t, r]; rows: l */               \
    template <typename T>                                                                                    \
    void weight_grad_1d(const T* grad, const T* values, const int64_t* start, int64_t points, int64_t taps,  \
                        int64_t nodes, int64_t inner, arithmetic_t<T>* partial, int64_t begin, int64_t end); \
    /* out[o, s] = <grad[o], values[start0[o] + s] sampled along axis 1>; rows: o.                           \
       axis1_transposed: points -> nodes */                                                                  \
    template <typename T>                                                                                    \
    void weight0_grad_2d(const T* grad, const T* values, const int64_t* start0, int64_t taps0,               \
                         const Axis<arithmetic_t<T>>& axis1_transposed, arithmetic_t<T>* out, int64_t begin, \
                         int64_t end);                                                                       \
    /* partial[i, t] += Σ_{o in range, r} grad[o, i, r] (values sampled along axis 0)[o, start1[i] + t, r]; \
       rows: o */                                                                                            \
    template <typename T>                                                                                    \
    void weight1_grad_2d(const T* grad, const T* values, const Taps<arithmetic_t<T>>& taps0,                 \
                         const int64_t* start1, int64_t points1, int64_t taps1, int64_t nodes1,              \
                         int64_t inner, arithmetic_t<T>* partial, int64_t begin, int64_t end);               \
    }
INTEGRALROB_ISAS(INTEGRALROB_DECLARE_SAMPLING)
#undef INTEGRALROB_DECLARE_SAMPLING

}  // namespace integralrob
