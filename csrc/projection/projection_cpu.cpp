// l-infinity projection and step on the CPU: one pass over memory. Compiled once per instruction set (see
// common/isa.h).
#include <algorithm>

#include "projection/projection_kernels.h"
#include "projection/projection_math.h"

#if defined(__clang__)
#define INTEGRALROB_INDEPENDENT_ITERATIONS _Pragma("clang loop vectorize(assume_safety)")
#else
#define INTEGRALROB_INDEPENDENT_ITERATIONS _Pragma("GCC ivdep")
#endif

namespace integralrob::INTEGRALROB_ISA_NAMESPACE {
namespace {

// Calls body(row, first, last) for the pieces of rows that [begin, end) covers.
template <typename Body>
INTEGRALROB_INLINE void for_pieces(int64_t length, int64_t begin, int64_t end, const Body& body) {
    while (begin < end) {
        const int64_t row = begin / length, last = std::min(end, (row + 1) * length);
        body(row, begin, last);
        begin = last;
    }
}

}  // namespace

template <typename T>
void project_linf(const T* delta, const T* center, PerRow<arithmetic_t<T>> eps, arithmetic_t<T> lo,
                  arithmetic_t<T> hi, int64_t length, T* out, int64_t begin, int64_t end) {
    using A = arithmetic_t<T>;
    for_pieces(length, begin, end,
               [&](int64_t row, int64_t first, int64_t last) __attribute__((always_inline)) {
                   const A e = eps[row];
                   if (center == nullptr) {
                       for (int64_t k = first; k < last; ++k) {
                           out[k] = narrow<T>(nan_min(nan_max(A(widen(delta[k])), -e), e));
                       }
                   } else {
                       for (int64_t k = first; k < last; ++k) {
                           out[k] = narrow<T>(
                               integralrob::project_linf(A(widen(delta[k])), e, A(widen(center[k])), lo, hi));
                       }
                   }
               });
}

template <typename T>
void linf_step(const T* x_adv, const T* grad, const T* x, PerRow<arithmetic_t<T>> eps,
               PerRow<arithmetic_t<T>> step, arithmetic_t<T> lo, arithmetic_t<T> hi, int64_t length, T* out,
               int64_t begin, int64_t end) {
    using A = arithmetic_t<T>;
    for_pieces(length, begin, end,
               [&](int64_t row, int64_t first, int64_t last) __attribute__((always_inline)) {
                   const A e = eps[row], s = step[row];
                   // An element is read before it is written, so out may be x_adv.
                   INTEGRALROB_INDEPENDENT_ITERATIONS
                   for (int64_t k = first; k < last; ++k) {
                       out[k] = narrow<T>(integralrob::linf_step(A(widen(x_adv[k])), A(widen(grad[k])),
                                                                 A(widen(x[k])), e, s, lo, hi));
                   }
               });
}

#define INTEGRALROB_INSTANTIATE(T)                                                                     \
    template void project_linf<T>(const T*, const T*, PerRow<arithmetic_t<T>>, arithmetic_t<T>,        \
                                  arithmetic_t<T>, int64_t, T*, int64_t, int64_t);                     \
    template void linf_step<T>(const T*, const T*, const T*, PerRow<arithmetic_t<T>>,                  \
                               PerRow<arithmetic_t<T>>, arithmetic_t<T>, arithmetic_t<T>, int64_t, T*, \
                               int64_t, int64_t);
INTEGRALROB_INSTANTIATE(float)
INTEGRALROB_INSTANTIATE(double)
INTEGRALROB_INSTANTIATE(Half)
INTEGRALROB_INSTANTIATE(BFloat16)

}  // namespace integralrob::INTEGRALROB_ISA_NAMESPACE
