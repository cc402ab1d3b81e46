// l-infinity projection, its derivative, and step on the CPU: one pass over memory. Compiled once per
// instruction set (see common/isa.h).
#include "projection/projection_math.h"
#include "projection/row_cpu.h"

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
void linf_step(const Step<T>& step, int64_t begin, int64_t end) {
    using A = arithmetic_t<T>;
    const T *x_adv = step.x_adv, *grad = step.grad, *x = step.x, *previous = step.previous;
    const A lo = step.lo, hi = step.hi, momentum = step.momentum;
    T* out = step.out;
    for_pieces(step.length, begin, end,
               [&](int64_t row, int64_t first, int64_t last) __attribute__((always_inline)) {
                   const A eps = step.eps[row], size = step.size[row];
                   const auto first_move = [&](int64_t k) __attribute__((always_inline)) {
                       return along_sign(A(widen(x_adv[k])), A(widen(grad[k])), size);
                   };
                   const auto result = [&](int64_t k, A v) __attribute__((always_inline)) {
                       return narrow<T>(clip_linf_to<T>(v, A(widen(x[k])), eps, lo, hi));
                   };
                   // An element is read before it is written, so out may be x_adv.
                   if (previous == nullptr) {
                       INTEGRALROB_INDEPENDENT_ITERATIONS
                       for (int64_t k = first; k < last; ++k) out[k] = result(k, first_move(k));
                   } else {
                       INTEGRALROB_INDEPENDENT_ITERATIONS
                       for (int64_t k = first; k < last; ++k) {
                           const A from = widen(x_adv[k]);
                           const A z = clip_linf(first_move(k), A(widen(x[k])), eps, lo, hi);
                           out[k] = result(k, from + with_momentum(z, from, A(widen(previous[k])), momentum));
                       }
                   }
               });
}

// Of each entry, the result of the projection is one of: delta, ±eps, a bound minus center, or 0 (where the
// center lies outside of the bounds). The gradient goes to it.
template <typename T>
void project_linf_backward(const T* grad, const T* delta, PerRow<arithmetic_t<T>> eps, const T* center,
                           arithmetic_t<T> lo, arithmetic_t<T> hi, int64_t length, T* grad_delta,
                           arithmetic_t<T>* grad_eps, T* grad_center, int64_t begin, int64_t end,
                           ParallelFor parallel) {
    using A = arithmetic_t<T>;
    const int64_t chunks = (length + kChunk - 1) / kChunk;
    for (int64_t row = begin; row < end; ++row) {
        const A radius = eps[row];
        const auto chunk = [&](int64_t i) {
            const int64_t first = row * length + i * kChunk, count = std::min(kChunk, length - i * kChunk);
            alignas(64) A of_eps[kChunk];
            INTEGRALROB_INDEPENDENT_ITERATIONS
            for (int64_t k = 0; k < count; ++k) {
                const A y = widen(delta[first + k]), g = widen(grad[first + k]);
                A least = -radius, most = radius;
                if (center != nullptr) {
                    const A c = widen(center[first + k]);
                    least = nan_max(least, nan_min(lo - c, A(0)));
                    most = nan_min(most, nan_max(hi - c, A(0)));
                }
                const bool above = y > most, below = y < least;
                const bool by_ball = (above & (most == radius)) | (below & (least == -radius));
                const bool by_box =
                    (above & (most < radius) & (most > A(0))) | (below & (least > -radius) & (least < A(0)));
                of_eps[k] = by_ball ? (above ? g : -g) : A(0);
                grad_delta[first + k] = narrow<T>(above | below ? A(0) : g);
                if (center != nullptr) grad_center[first + k] = narrow<T>(by_box ? -g : A(0));
            }
            return sum_of(of_eps, count);
        };
        grad_eps[row] = static_cast<A>(
            add_up<CompensatedSum<double>>(chunks == 1 ? nullptr : parallel, chunks, chunk).value());
    }
}

#define INTEGRALROB_INSTANTIATE(T)                                                                          \
    template void project_linf<T>(const T*, const T*, PerRow<arithmetic_t<T>>, arithmetic_t<T>,             \
                                  arithmetic_t<T>, int64_t, T*, int64_t, int64_t);                          \
    template void project_linf_backward<T>(const T*, const T*, PerRow<arithmetic_t<T>>, const T*,           \
                                           arithmetic_t<T>, arithmetic_t<T>, int64_t, T*, arithmetic_t<T>*, \
                                           T*, int64_t, int64_t, ParallelFor);                              \
    template void linf_step<T>(const Step<T>&, int64_t, int64_t);
INTEGRALROB_INSTANTIATE(float)
INTEGRALROB_INSTANTIATE(double)
INTEGRALROB_INSTANTIATE(Half)
INTEGRALROB_INSTANTIATE(BFloat16)

}  // namespace integralrob::INTEGRALROB_ISA_NAMESPACE
