// The derivatives of the projections onto balls within a box on the CPU. Compiled once per instruction set
// (see common/isa.h).
#include <limits>

#include "projection/row_cpu.h"

namespace integralrob::INTEGRALROB_ISA_NAMESPACE {
namespace {

// How far the box alone lets entries go.
template <typename T>
struct Box {
    using A = arithmetic_t<T>;
    const T* center;  // null without a box
    A lo, hi;

    // Of the entries [first, first + count), which are y.
    void room(int64_t first, int64_t count, const T* y, A* to) const {
        constexpr A kInfinity = std::numeric_limits<A>::infinity();
        if (center == nullptr) {
            std::fill(to, to + count, kInfinity);
        } else {
            for_entries<A>(count, [&]<typename V>(int64_t k) __attribute__((always_inline)) {
                store(limit(load<V>(y + k), load<V>(center + first + k), lo, hi, kInfinity), to + k);
            });
        }
    }
};

// The sums of a row: Σ_F g·d, Σ_F d², and, in l2, Σ_F m and Σ_F a, whose ratio is s.
struct GradientSums {
    CompensatedSum<double> projected, squares, results, sizes;
    bool cut = false;

    INTEGRALROB_INLINE void add(const GradientSums& other) {
        projected.add(other.projected);
        squares.add(other.squares);
        results.add(other.results);
        sizes.add(other.sizes);
        cut = cut || other.cut;
    }
};

template <typename T, bool kL2>
class ProjectionGradient {
    using A = arithmetic_t<T>;

  public:
    ProjectionGradient(const Box<T>& box, A eps, const T* grad, const T* delta, const T* result,
                       int64_t length, ParallelFor parallel)
        : box_(box),
          eps_(eps),
          grad_(grad),
          delta_(delta),
          result_(result),
          length_(length),
          unit_(kL2 ? inverse_power(eps) : A(1)),
          parallel_(parallel) {}

    void run(T* grad_delta, A* grad_eps, T* grad_center) const {
        const GradientSums sums = sum();
        const double squares = sums.squares.value();
        const bool moves = sums.cut && squares > 0;
        const double kappa = moves ? sums.projected.value() / squares : 0.0;
        const double sizes = sums.sizes.value();
        const double s = !kL2 || !sums.cut ? 1.0 : sizes > 0 ? sums.results.value() / sizes : 0.0;
        *grad_eps = static_cast<A>(kL2 && moves ? kappa * unit_ * eps_ : kappa);
        for_range(parallel_, blocks(), [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const Block block(*this, i);
                block.write(static_cast<A>(s), static_cast<A>(kappa), sums.cut, grad_delta + i * kBlock,
                            grad_center == nullptr ? nullptr : grad_center + i * kBlock);
            }
        });
    }

  private:
    static constexpr int64_t kBlock = 512;

    Box<T> box_;
    A eps_;
    const T *grad_, *delta_, *result_;
    int64_t length_;
    A unit_;
    ParallelFor parallel_;

    int64_t blocks() const { return (length_ + kBlock - 1) / kBlock; }

    // kBlock entries. Limits are made by one loop and used by the next, so that each vectorises.
    class Block {
      public:
        Block(const ProjectionGradient& of, int64_t index)
            : count_(std::min(kBlock, of.length_ - index * kBlock)),
              y_(of.delta_ + index * kBlock),
              grad_(of.grad_ + index * kBlock),
              result_(of.result_ + index * kBlock),
              unit_(of.unit_) {
            of.box_.room(index * kBlock, count_, y_, room_);
        }

        // As if the ball cut the row.
        GradientSums sums() const {
            alignas(64) A projected[kBlock], squares[kBlock], results[kBlock], sizes[kBlock];
            int cut = 0;
            for (int64_t k = 0; k < count_; ++k) {
                const ProjectedEntry<T> entry(y_[k], result_[k], room_[k]);
                const bool use = entry.template follows<kL2>(true);
                const A d = direction(k), product = A(widen(grad_[k])) * d, square = d * d;
                projected[k] = use ? product : A(0);
                squares[k] = use ? square : A(0);
                results[k] = use ? entry.m : A(0);
                sizes[k] = use ? entry.a : A(0);
                cut |= entry.cut();
            }
            GradientSums sums;
            sums.cut = cut != 0;
            sums.projected = sum_of(projected, count_);
            sums.squares = sum_of(squares, count_);
            if (kL2) {
                sums.results = sum_of(results, count_);
                sums.sizes = sum_of(sizes, count_);
            }
            return sums;
        }

        void write(A s, A kappa, bool cut, T* grad_delta, T* grad_center) const {
            INTEGRALROB_INDEPENDENT_ITERATIONS
            for (int64_t k = 0; k < count_; ++k) {
                const ProjectedEntry<T> entry(y_[k], result_[k], room_[k]);
                const A moved = A(widen(grad_[k])) - kappa * direction(k), scaled = s * moved;
                grad_delta[k] = narrow<T>(entry.template follows<kL2>(cut) ? scaled : A(0));
            }
            if (grad_center == nullptr) return;
            INTEGRALROB_INDEPENDENT_ITERATIONS
            for (int64_t k = 0; k < count_; ++k) {
                const ProjectedEntry<T> entry(y_[k], result_[k], room_[k]);
                const A moved = kappa * direction(k) - A(widen(grad_[k]));
                grad_center[k] = narrow<T>(entry.moves_with_center() ? moved : A(0));
            }
        }

      private:
        int64_t count_;
        const T *y_, *grad_, *result_;
        A unit_;
        alignas(64) A room_[kBlock];

        INTEGRALROB_INLINE A direction(int64_t k) const {
            if constexpr (kL2) return A(widen(result_[k])) * unit_;
            const A y = widen(y_[k]);
            return (y > A(0) ? A(1) : A(0)) - (y < A(0) ? A(1) : A(0));
        }
    };

    GradientSums sum() const {
        const Scratch<GradientSums> parts(blocks());
        for_range(parallel_, blocks(), [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) parts.data()[i] = Block(*this, i).sums();
        });
        GradientSums sums;
        for (int64_t i = 0; i < blocks(); ++i) sums.add(parts.data()[i]);
        return sums;
    }
};

template <bool kL2, typename T, typename A = arithmetic_t<T>>
void project_backward(const T* grad, const T* delta, const T* result, PerRow<A> eps, const T* center, A lo,
                      A hi, int64_t length, T* grad_delta, A* grad_eps, T* grad_center, int64_t begin,
                      int64_t end, ParallelFor parallel) {
    for (int64_t r = begin; r < end; ++r) {
        const int64_t first = r * length;
        const Box<T> box{center == nullptr ? nullptr : center + first, lo, hi};
        ProjectionGradient<T, kL2>(box, radius(eps[r]), grad + first, delta + first, result + first, length,
                                   parallel)
            .run(grad_delta + first, grad_eps + r, grad_center == nullptr ? nullptr : grad_center + first);
    }
}

}  // namespace

template <typename T>
void project_l1_backward(const T* grad, const T* delta, const T* result, PerRow<arithmetic_t<T>> eps,
                         const T* center, arithmetic_t<T> lo, arithmetic_t<T> hi, int64_t length,
                         T* grad_delta, arithmetic_t<T>* grad_eps, T* grad_center, int64_t begin, int64_t end,
                         ParallelFor parallel) {
    project_backward<false>(grad, delta, result, eps, center, lo, hi, length, grad_delta, grad_eps,
                            grad_center, begin, end, parallel);
}

template <typename T>
void project_l2_backward(const T* grad, const T* delta, const T* result, PerRow<arithmetic_t<T>> eps,
                         const T* center, arithmetic_t<T> lo, arithmetic_t<T> hi, int64_t length,
                         T* grad_delta, arithmetic_t<T>* grad_eps, T* grad_center, int64_t begin, int64_t end,
                         ParallelFor parallel) {
    project_backward<true>(grad, delta, result, eps, center, lo, hi, length, grad_delta, grad_eps,
                           grad_center, begin, end, parallel);
}

#define INTEGRALROB_INSTANTIATE(T)                                                                        \
    template void project_l1_backward<T>(const T*, const T*, const T*, PerRow<arithmetic_t<T>>, const T*, \
                                         arithmetic_t<T>, arithmetic_t<T>, int64_t, T*, arithmetic_t<T>*, \
                                         T*, int64_t, int64_t, ParallelFor);                              \
    template void project_l2_backward<T>(const T*, const T*, const T*, PerRow<arithmetic_t<T>>, const T*, \
                                         arithmetic_t<T>, arithmetic_t<T>, int64_t, T*, arithmetic_t<T>*, \
                                         T*, int64_t, int64_t, ParallelFor);
INTEGRALROB_INSTANTIATE(float)
INTEGRALROB_INSTANTIATE(double)
INTEGRALROB_INSTANTIATE(Half)
INTEGRALROB_INSTANTIATE(BFloat16)

}  // namespace integralrob::INTEGRALROB_ISA_NAMESPACE
