// The search of ball_search.h by the threads of a team. Its sums are fixed-point numbers (fixed_sum.cuh),
// which makes a row's projection the same, bit for bit, whichever way it is taken.
#pragma once

#include <cmath>
#include <limits>

#include "projection/ball_search.h"
#include "projection/fixed_sum.cuh"
#include "projection/row_entries.cuh"

namespace integralrob::cuda {

constexpr double kNoNumber = std::numeric_limits<double>::quiet_NaN();

// Of the formulas in ball_search.h, for entries that are numbers: minima and maxima are single instructions
// then.
template <typename A>
__device__ __forceinline__ A entry(const Threshold<A>& threshold, A magnitude, A limit) {
    return min(max((magnitude - threshold.high) - threshold.low, A(0)), limit);
}
template <typename A>
__device__ __forceinline__ A entry(const Factor<A>& factor, A magnitude, A limit) {
    return min((magnitude * factor.unit) * factor.rest, limit);
}

// The largest magnitude of a row, and of the entries that reach as far as ε. As bits: NaN is more than any
// number.
template <typename A>
class Sizes {
  public:
    __device__ __forceinline__ void take(A y) { largest_ = max(largest_, bits(y)); }
    __device__ __forceinline__ void take(A y, A limit, A eps) {
        take(y);
        if (limit == eps) reaching_ = max(reaching_, bits(y));
    }
    __device__ __forceinline__ void merge(const Sizes& other) {
        largest_ = max(largest_, other.largest_);
        reaching_ = max(reaching_, other.reaching_);
    }
    __device__ A largest() const { return bit_cast<A>(largest_); }
    __device__ A reaching() const { return bit_cast<A>(reaching_); }

  private:
    using Bits = std::conditional_t<sizeof(A) == 4, uint32_t, uint64_t>;
    Bits largest_ = 0, reaching_ = 0;

    static __device__ __forceinline__ Bits bits(A y) { return bit_cast<Bits>(static_cast<A>(fabs(y))); }
};

// The search lets a norm (or its square) be too large by a rounding or two. In float64, where those of its
// own arithmetic come on top, it is told of none that is: then more is too large by far more.
template <typename A>
__device__ double without_leeway(double norm, double target) {
    return sizeof(A) == 8 && norm > target ? norm + 0x1p-51 * norm : norm;
}

// Over the lanes of a warp; all get the same.
template <typename A>
__device__ __forceinline__ A add_lanes(A x) {
#pragma unroll
    for (int distance = kWarp / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(kAllLanes, x, distance);
    return x;
}

// Some hundred entries of a row, evenly over it, in shared memory: magnitudes and limits. The same ones
// wherever the row is; one warp finds the formula for them in the time of a pass or two over the row, which
// then needs fewer of these.
template <typename T>
class Sample {
    using A = arithmetic_t<T>;
    static constexpr int kMost = 512;

  public:
    static constexpr size_t kBytes = 2 * kMost * sizeof(A);

    __device__ Sample(unsigned char* memory, int64_t length) : sizes_(reinterpret_cast<A*>(memory)) {
        const int64_t pieces = ceil_div<int64_t>(length, kLanes<T>);
        while (ceil_div(pieces, int64_t{1} << log2_step_) * kLanes<T> > kMost) ++log2_step_;
        count_ = static_cast<int>(ceil_div(pieces, int64_t{1} << log2_step_)) * kLanes<T>;
        share = count_ < length ? static_cast<A>(count_) / static_cast<A>(length) : A(1);
    }

    A share;  // of the row

    // Of a piece from entry k on, if it belongs to the sample.
    template <typename Team, typename Piece>
    __device__ void take(const Team& team, int64_t k, const Piece& piece) const {
        const int64_t index = k / kLanes<T>;
        if ((index & ((int64_t{1} << log2_step_) - 1)) != 0) return;
        A* to = sizes_ + (index >> log2_step_) * kLanes<T>;
#pragma unroll
        for (int lane = 0; lane < kLanes<T>; ++lane) {
            team.publish(to + lane, static_cast<A>(fabs(piece.of[0][lane])));
            team.publish(to + kMost + lane, piece.of[1][lane]);
        }
    }
    // body(magnitude, limit) for the entries of a lane.
    template <typename Body>
    __device__ void each(const Body& body) const {
#pragma unroll 2
        for (int k = static_cast<int>(threadIdx.x) % kWarp; k < count_; k += kWarp) {
            body(sizes_[k], sizes_[kMost + k]);
        }
    }

  private:
    A* sizes_;
    int log2_step_ = 0, count_;
};

// A ball: the search for its formula, and the sums that a pass takes for it. `unit` scales what is summed.
template <typename A>
class L1Ball {
  public:
    using Formula = Threshold<A>;
    struct Total {
        FixedTotal<A> norm;
        uint64_t free = 0;
        __device__ __forceinline__ void merge(const Total& other) {
            norm.merge(other.norm);
            free += other.free;
        }
    };
    class Sums {
      public:
        __device__ __forceinline__ void add(A delta, A limit, A unit) {
            norm_.add(norm_.term(delta, unit));
            free_ += delta > A(0) && delta < limit;
        }
        __device__ __forceinline__ Total total() const { return {norm_.total(), free_}; }

      private:
        FixedSum<A> norm_;
        uint32_t free_ = 0;
    };

    // No entry of the ball exceeds ε.
    static __device__ A most(A eps) { return eps; }
    // Entries as they are, or none that is a number.
    static __device__ Formula inside() { return Formula(0.0); }
    static __device__ Formula not_a_number() { return Formula(kNoNumber); }

    __device__ L1Ball(A eps, const Sizes<A>& sizes, A unit)
        : search_(eps, sizes.largest(), sizes.reaching()), eps_(eps), unit_(unit) {}

    // θ of a sample, by a warp, to a percent; Newton's steps from 0.
    template <typename T>
    static __device__ A guess(const Sample<T>& sample, A eps, const L1Ball&) {
        const A target = eps * sample.share;
        A theta = 0;
#pragma unroll 1
        for (int step = 0; step < 16; ++step) {
            A norm = 0, free = 0;
            sample.each([&](A size, A limit) {
                const A delta = min(max(size - theta, A(0)), limit);
                norm += delta;
                if (delta > A(0) && delta < limit) free += A(1);
            });
            norm = add_lanes(norm), free = add_lanes(free);
            if (!(norm > A(1.01) * target) || free == A(0)) break;
            theta += (norm - target) / free;
        }
        return theta;
    }
    __device__ void propose(A theta) { search_.guess(theta); }

    __device__ const L1Search<A>& search() const { return search_; }
    __device__ Formula formula() const { return search_.threshold(); }
    __device__ void update(const Total& total) {
        search_.update(without_leeway<A>(total.norm.value() / unit_, eps_), static_cast<double>(total.free));
    }

  private:
    L1Search<A> search_;
    A eps_, unit_;
};

template <typename A>
class L2Ball {
  public:
    using Formula = Factor<A>;
    struct Total {
        FixedTotal<A> all, clipped;
        __device__ __forceinline__ void merge(const Total& other) {
            all.merge(other.all);
            clipped.merge(other.clipped);
        }
    };
    class Sums {
      public:
        __device__ __forceinline__ void add(A delta, A limit, A unit) {
            const A scaled = delta * unit;
            const auto square = all_.term(scaled, scaled);
            all_.add(square);
            if (!(delta < limit)) clipped_.add(square);
        }
        __device__ __forceinline__ Total total() const { return {all_.total(), clipped_.total()}; }

      private:
        FixedSum<A> all_, clipped_;
    };

    // More than ε: an entry of that size is scaled with the others; its square by `unit` is less than 1/2.
    static __device__ A most(A eps) { return A(1.25) * eps; }
    static __device__ Formula inside() { return Formula(A(1), 1.0); }
    static __device__ Formula not_a_number() { return Formula(A(1), kNoNumber); }

    __device__ L2Ball(A eps, const Sizes<A>& sizes, A unit)
        : search_(eps, sizes.largest()),
          eps_(eps),
          largest_(sizes.largest()),
          ratio_(L2Search<A>::square_unit(eps) / static_cast<double>(unit)) {}

    // s / unit of a sample, by a warp, to a percent: never above its root.
    template <typename T>
    static __device__ A guess(const Sample<T>& sample, A eps, const L2Ball& ball) {
        const A unit = ball.formula().unit, of_eps = inverse_power(eps);
        const A target = (eps * of_eps) * (eps * of_eps) * sample.share;
        A squares = 0;
        sample.each([&](A size, A) { squares += (size * unit) * (size * unit); });
        A s = sqrt(target / add_lanes(squares)) / of_eps;
#pragma unroll 1
        for (int step = 0; step < 4; ++step) {
            A free = 0, clipped = 0;
            sample.each([&](A size, A limit) {
                const A delta = min((size * unit) * s, limit), square = (delta * of_eps) * (delta * of_eps);
                (delta < limit ? free : clipped) += square;
            });
            free = add_lanes(free), clipped = add_lanes(clipped);
            if (!(free + clipped < A(0.99) * target) || free == A(0)) break;
            s *= sqrt((target - clipped) / free);
        }
        return s;
    }
    __device__ void propose(A s) {
        const double start = search_.at;
        search_.guess(s);
        guessed_ = search_.at != start;
    }

    __device__ const L2Search<A>& search() const { return search_; }
    __device__ Formula formula() const { return search_.factor(); }
    __device__ void update(const Total& total) {
        const double target = L2Search<A>::square(eps_, L2Search<A>::square_unit(eps_));
        const double all = without_leeway<A>(total.all.value() * ratio_ * ratio_, target);
        const double clipped = total.clipped.value() * ratio_ * ratio_;
        search_.update(all - clipped, clipped);
        // Without a better guess: the box aside, all entries are free where the largest is ε.
        const double scaled = static_cast<double>(largest_) * search_.factor().unit;
        if (!guessed_) search_.guess_from(eps_, scaled * scaled);
        guessed_ = true;
    }

  private:
    L2Search<A> search_;
    A eps_, largest_;
    double ratio_;
    bool guessed_ = false;
};

// y as project() takes it: a NaN of the limit shows; an infinite entry counts as the largest number, except
// in a ball that is infinite too.
template <typename A>
__device__ __forceinline__ A bounded(A y, A limit, A eps) {
    const A size = limit == limit ? A(fabs(y)) : limit;
    return copysign(finite(size, max(eps, kLargest<A>)), y);
}

// The formula of the projection of entries whose first two numbers are y, bounded, and how far it may go in
// its direction: limit() with Ball::most(eps). A NaN in y or ε makes it one that gives NaN. `memory`:
// Sample<T>::kBytes, shared.
template <typename Ball, typename T, typename Team, typename Entries, typename A = arithmetic_t<T>>
__device__ typename Ball::Formula project(Team& team, Entries& entries, int64_t length, A eps, A scale,
                                          unsigned char* memory) {
    using Piece = typename Entries::Piece;
    const A unit = fixed_unit(eps) * scale;
    struct Plan {
        typename Ball::Formula formula;
        int64_t searches;
    };

    Sizes<A> sizes;
    const Sample<T> sample(memory, length);
    for_pieces(entries, [&](int64_t k, const Piece& piece) {
#pragma unroll
        for (int lane = 0; lane < kLanes<T>; ++lane) sizes.take(piece.of[0][lane], piece.of[1][lane], eps);
        sample.take(team, k, piece);
    });
    Plan plan = team.template decide<Ball>(sizes, [&](Ball& ball, const Sizes<A>& sizes) -> Plan {
        if (sizes.largest() != sizes.largest() || eps != eps) return {Ball::not_a_number(), false};
        ball = Ball(eps, sizes, unit);
        return {ball.formula(), true};
    });
    // All threads of the team see the same plan: they leave together.
    if (plan.searches) {
        plan = team.template lead<Ball>([&](Ball& ball) -> Plan {
            const A guess = Ball::guess(sample, eps, ball);
            if (threadIdx.x % kWarp == 0) ball.propose(guess);
            __syncwarp();
            return {ball.formula(), true};
        });
    }
    while (plan.searches) {
        using Sums = typename Ball::Sums;
        const auto total = sum_entries<Sums>(entries, [&](Sums& sums, const Piece& piece, int lane) {
            const A limit = piece.of[1][lane];
            sums.add(entry(plan.formula, static_cast<A>(fabs(piece.of[0][lane])), limit), limit, unit);
        });
        plan = team.template decide<Ball>(total, [](Ball& ball, const auto& total) -> Plan {
            ball.update(total);
            return {ball.search().inside() ? Ball::inside() : ball.formula(), !ball.search().found};
        });
    }
    return plan.formula;
}

}  // namespace integralrob::cuda
