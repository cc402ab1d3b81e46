// Steps in the l1 and the l2 ball on the CPU. Compiled once per instruction set (see common/isa.h).
#include "projection/ball_projection_cpu.h"
#include "projection/magnitudes_cpu.h"
#include "projection/projection_math.h"

namespace integralrob::INTEGRALROB_ISA_NAMESPACE {
namespace {

// How a gradient moves its entry. A NaN, in the gradient or the size, is one in every entry.
template <typename T>
struct SparseMove {
    using A = arithmetic_t<T>;
    A least, share, rest;  // rest: the move of the others

    // The same for every entry that is at least the k-th largest, and not 0.
    SparseMove(const Step<T>& step, int64_t row, ParallelFor parallel) {
        const Magnitudes<T> gradient(step.grad + row * step.length, step.length, parallel);
        const int64_t k = std::clamp<int64_t>(step.kept[row], 1, step.length);
        const Tally<A> all = gradient.tally(std::numeric_limits<A>::infinity());
        least = std::max(gradient.kth_largest(k, all), std::numeric_limits<A>::denorm_min());
        const A moving = static_cast<A>(std::max(gradient.count(least), 1.0));
        share = all.unknown ? std::numeric_limits<A>::quiet_NaN() : step.size[row] / moving;
        rest = share == share ? A(0) : share;
    }

    template <typename V>
    INTEGRALROB_INLINE V operator()(V gradient) const {
        const V none = V{} + rest, up = V{} + share, down = V{} - share;
        return gradient >= least ? up : gradient <= -least ? down : none;
    }
};

// Towards the gradient, whose length is divided by; infinite entries count as the largest number.
template <typename T>
struct NormalisedMove {
    using A = arithmetic_t<T>;
    A unit;  // a power of two that brings the largest entry to [1, 2)
    double factor;

    NormalisedMove(const Step<T>& step, int64_t row, ParallelFor parallel) {
        const Magnitudes<T> gradient(step.grad + row * step.length, step.length, parallel);
        const Tally<A> tally = gradient.tally(kLargest<A>);
        const A largest = tally.at_least > 0 ? kLargest<A> : tally.below;
        unit = inverse_power(largest);
        const double square_unit = L2Search<A>::square_unit(largest);
        const double length = std::sqrt(gradient.squares(square_unit)) * (unit / square_unit);
        factor = largest > 0 ? step.size[row] / length : step.size[row] * 0.0;
    }

    template <typename V>
    INTEGRALROB_INLINE V operator()(V gradient) const {
        constexpr A most = kLargest<A>;
        const V finite = gradient > most ? V{} + most : gradient < -most ? V{} - most : gradient;
        return times(finite * unit, factor);
    }
};

// The perturbation after a move, which the projection limits. Out: the storage type, for the result of the
// step; or A, for a number that another move starts from.
template <typename T, typename Of, typename Out, bool kLast>
struct MovedRow {
    using A = arithmetic_t<T>;
    const T *x_adv, *x, *center;  // center: null where the projection is on the ball alone
    A lo, hi;
    int64_t length;
    Of move;
    Out* out;

    template <typename V>
    INTEGRALROB_INLINE V y(int64_t k) const {
        return (load<V>(x_adv + k) - load<V>(x + k)) + move.template at<V>(k);
    }
    INTEGRALROB_INLINE void ask_ahead(int64_t k) const {
        __builtin_prefetch(x_adv + ahead(length) + k);
        __builtin_prefetch(x + ahead(length) + k);
        move.ask_ahead(ahead(length) + k);
    }
    static A* place(int64_t, A* spare) { return spare; }
    void write(int64_t first, int64_t count, const A* delta) const {
        for (int64_t k = 0; k < count; ++k) {
            const A from = widen(x[first + k]);
            if constexpr (kLast) {
                const A to = moved<T>(from, delta[k]);
                out[first + k] = narrow<T>(clip(to, lo, hi));
            } else {
                out[first + k] = clip(from + delta[k], lo, hi);
            }
        }
    }
};

template <typename T, typename Move>
struct AlongGradient {
    const T* grad;
    Move move;

    template <typename V>
    INTEGRALROB_INLINE V at(int64_t k) const {
        return move(load<V>(grad + k));
    }
    INTEGRALROB_INLINE void ask_ahead(int64_t k) const { __builtin_prefetch(grad + k); }
};

template <typename T>
struct WithMomentum {
    using A = arithmetic_t<T>;
    const T *x_adv, *previous;
    const A* z;
    A momentum;

    template <typename V>
    INTEGRALROB_INLINE V at(int64_t k) const {
        return with_momentum(load<V>(z + k), load<V>(x_adv + k), load<V>(previous + k), momentum);
    }
    INTEGRALROB_INLINE void ask_ahead(int64_t k) const { __builtin_prefetch(previous + k); }
};

template <template <typename> typename Norm, typename Move, bool kWithBox, typename T>
void take(const Step<T>& step, int64_t begin, int64_t end, ParallelFor parallel) {
    using A = arithmetic_t<T>;
    const int64_t length = step.length;
    if (length == 0) return;
    const bool once = step.previous == nullptr;
    const Scratch<A> buffer(projection_buffer<A>(length)), between(once ? 0 : length);
    for (int64_t row = begin; row < end; ++row) {
        const int64_t first = row * length;
        const T *x_adv = step.x_adv + first, *x = step.x + first, *center = kWithBox ? x : nullptr;
        const A eps = radius(step.eps[row]);
        const auto project = [&]<bool kLast>(const auto& move, auto* out) {
            const MovedRow<T, std::decay_t<decltype(move)>, std::decay_t<decltype(*out)>, kLast> from{
                x_adv, x, center, step.lo, step.hi, length, move, out};
            Projection<std::decay_t<decltype(from)>, Norm>(from, eps, buffer.data(), parallel).run();
        };
        const AlongGradient<T, Move> along{step.grad + first, Move(step, row, parallel)};
        if (once) {
            project.template operator()<true>(along, step.out + first);
        } else {
            project.template operator()<false>(along, between.data());
            project.template operator()<true>(
                WithMomentum<T>{x_adv, step.previous + first, between.data(), step.momentum},
                step.out + first);
        }
    }
}

}  // namespace

template <typename T>
void l1_step(const Step<T>& step, int64_t begin, int64_t end, ParallelFor parallel) {
    take<L1, SparseMove<T>, true>(step, begin, end, parallel);
}

template <typename T>
void l2_step(const Step<T>& step, int64_t begin, int64_t end, ParallelFor parallel) {
    take<L2, NormalisedMove<T>, false>(step, begin, end, parallel);
}

#define INTEGRALROB_INSTANTIATE(T)                                           \
    template void l1_step<T>(const Step<T>&, int64_t, int64_t, ParallelFor); \
    template void l2_step<T>(const Step<T>&, int64_t, int64_t, ParallelFor);
INTEGRALROB_INSTANTIATE(float)
INTEGRALROB_INSTANTIATE(double)
INTEGRALROB_INSTANTIATE(Half)
INTEGRALROB_INSTANTIATE(BFloat16)

}  // namespace integralrob::INTEGRALROB_ISA_NAMESPACE
