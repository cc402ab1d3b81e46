// Projections onto the l1 and the l2 ball within a box on the CPU. Compiled once per instruction set (see
// common/isa.h).
#include "projection/ball_projection_cpu.h"

namespace integralrob::INTEGRALROB_ISA_NAMESPACE {
namespace {

template <typename T>
struct Perturbation {
    using A = arithmetic_t<T>;
    const T *delta, *center;
    A lo, hi;
    int64_t length;
    T* out;

    template <typename V>
    INTEGRALROB_INLINE V y(int64_t k) const {
        return load<V>(delta + k);
    }
    INTEGRALROB_INLINE void ask_ahead(int64_t k) const {
        __builtin_prefetch(delta + ahead(length) + k);
        if (center != nullptr) __builtin_prefetch(center + ahead(length) + k);
    }
    A* place(int64_t first, A* spare) const {
        if constexpr (std::is_same_v<T, A>) return out + first;
        return spare;
    }
    void write(int64_t first, int64_t count, const A* entries) const {
        if constexpr (std::is_same_v<T, A>) return;
        for (int64_t k = 0; k < count; ++k) {
            out[first + k] = signed_entry(std::fabs(entries[k]), narrow<T>(entries[k]));
        }
    }
};

template <template <typename> typename Norm, typename T, typename A = arithmetic_t<T>>
void project(const T* delta, const T* center, PerRow<A> eps, A lo, A hi, int64_t length, T* out,
             int64_t begin, int64_t end, ParallelFor parallel) {
    if (length == 0) return;
    const Scratch<A> buffer(projection_buffer<A>(length));
    for (int64_t r = begin; r < end; ++r) {
        const int64_t first = r * length;
        const Perturbation<T> row{delta + first, center == nullptr ? nullptr : center + first, lo, hi, length,
                                  out + first};
        Projection<Perturbation<T>, Norm>(row, radius(eps[r]), buffer.data(), parallel).run();
    }
}

}  // namespace

template <typename T>
void project_l1(const T* delta, const T* center, PerRow<arithmetic_t<T>> eps, arithmetic_t<T> lo,
                arithmetic_t<T> hi, int64_t length, T* out, int64_t begin, int64_t end,
                ParallelFor parallel) {
    project<L1>(delta, center, eps, lo, hi, length, out, begin, end, parallel);
}

template <typename T>
void project_l2(const T* delta, const T* center, PerRow<arithmetic_t<T>> eps, arithmetic_t<T> lo,
                arithmetic_t<T> hi, int64_t length, T* out, int64_t begin, int64_t end,
                ParallelFor parallel) {
    project<L2>(delta, center, eps, lo, hi, length, out, begin, end, parallel);
}

#define INTEGRALROB_INSTANTIATE(T)                                                            \
    template void project_l1<T>(const T*, const T*, PerRow<arithmetic_t<T>>, arithmetic_t<T>, \
                                arithmetic_t<T>, int64_t, T*, int64_t, int64_t, ParallelFor); \
    template void project_l2<T>(const T*, const T*, PerRow<arithmetic_t<T>>, arithmetic_t<T>, \
                                arithmetic_t<T>, int64_t, T*, int64_t, int64_t, ParallelFor);
INTEGRALROB_INSTANTIATE(float)
INTEGRALROB_INSTANTIATE(double)
INTEGRALROB_INSTANTIATE(Half)
INTEGRALROB_INSTANTIATE(BFloat16)

}  // namespace integralrob::INTEGRALROB_ISA_NAMESPACE
