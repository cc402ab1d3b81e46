// Projections onto a ball within a box, for every device: the maths of one entry, and the search for the one
// number that the projection of a row depends on.
//
// Of the row y, a_i = |y_i|, and b_i >= 0 is how far the box lets entry i go in the direction of
// y_i.
//   l1: |δ_i| = clip(a_i - θ, 0, b_i)   θ = 0, or the root of Σ |δ_i| = ε
//   l2: |δ_i| = min(s·a_i, b_i)         s = 1, or the root of Σ δ_i² = ε²
// Both sums are monotone; the first is piecewise linear in θ, the second in s²: Newton's step is exact within
// a piece. Sums are taken over entries as they are returned, so that what is found is feasible after
// rounding.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "common/half.h"

namespace integralrob {

// The relative error of one rounding.
template <typename A>
constexpr double kRounding = sizeof(A) == 4 ? 0x1p-24 : 0x1p-53;

template <typename A>
constexpr A kLargest = std::numeric_limits<A>::max();

// Comparisons below are such that a NaN among the entries comes through, at the price of one instruction. One
// in ε makes the search's target NaN, and so every entry.

// Of |y|: an infinite entry counts as the largest number. V, here and below, is A or a vector of it.
template <typename V, typename A>
INTEGRALROB_INLINE V finite(V size, A largest) {
    return size > largest ? V{} + largest : size;
}
template <typename A>
INTEGRALROB_INLINE A magnitude(A y) {
    return finite(std::fabs(y), kLargest<A>);
}

// Below 0 there is no ball: only the CPU's ε is looked at before it comes here, and every search must end.
template <typename A>
INTEGRALROB_INLINE A radius(A eps) {
    return eps < A(0) ? A(0) : eps;
}

// How far an entry may go in the direction of y: in l1, ε is a limit too, which no entry of the ball exceeds.
// (In l2, pass an infinite ε: entries far smaller than one as large as ε would not be scaled.)
template <typename V, typename A>
INTEGRALROB_INLINE V limit(V y, V center, A lo, A hi, A eps) {
    const V room = y > V{} ? hi - center : center - lo;
    const V positive = V{} > room ? V{} : room;
    return positive > eps ? V{} + eps : positive;
}

// An entry of the result: rounded to the storage type towards zero, so that it stays in the ball and the box.
template <typename T>
INTEGRALROB_INLINE T signed_entry(arithmetic_t<T> magnitude, T y) {
    using Bits =
        std::conditional_t<sizeof(T) == 2, uint16_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>;
    constexpr Bits kSign = Bits(1) << (8 * sizeof(T) - 1);
    const T nearest = narrow<T>(magnitude);
    const Bits bits = bit_cast<Bits>(nearest) - (widen(nearest) > magnitude ? 1 : 0);
    return bit_cast<T>(static_cast<Bits>(bits | (bit_cast<Bits>(y) & kSign)));
}

// What the box leaves of a row that is inside of the ball.
struct Unchanged {
    template <typename V>
    INTEGRALROB_INLINE V operator()(V magnitude, V limit) const {
        return limit < magnitude ? limit : magnitude;
    }
};

// θ in two parts, so that a - θ is right to a rounding of the difference, however close the two are. A NaN in
// θ makes every entry NaN.
template <typename A>
struct Threshold {
    A high, low;

    explicit INTEGRALROB_INLINE Threshold(double theta)
        : high(static_cast<A>(theta)), low(static_cast<A>(theta - static_cast<double>(high))) {}

    // θ = anchor - distance, of which a double is too short for the difference.
    INTEGRALROB_INLINE Threshold(double anchor, double distance)
        : high(static_cast<A>(anchor - distance)),
          low(static_cast<A>((anchor - static_cast<double>(high)) - distance)) {}

    template <typename V>
    INTEGRALROB_INLINE V operator()(V magnitude, V limit) const {
        const V rest = (magnitude - high) - low;
        const V most = limit < rest ? limit : rest;
        return V{} > most ? V{} : most;
    }
};

// s in two factors: `unit`, a power of two that brings the largest entry of the row to [1, 2), and s / unit.
// Neither overflows, whatever the sizes of the entries and of ε.
template <typename A>
struct Factor {
    A unit, rest;

    INTEGRALROB_INLINE Factor(A unit_, double s_by_unit) : unit(unit_), rest(static_cast<A>(s_by_unit)) {
        // Rounded down, so that what is found is feasible.
        using Bits = std::conditional_t<sizeof(A) == 4, uint32_t, uint64_t>;
        if (static_cast<double>(rest) > s_by_unit) rest = bit_cast<A>(bit_cast<Bits>(rest) - 1);
    }

    template <typename V>
    INTEGRALROB_INLINE V operator()(V magnitude, V limit) const {
        const V scaled = (magnitude * unit) * rest;
        return limit < scaled ? limit : scaled;
    }
};

// 2^-k for x in [2^k, 2^(k+1)), k no further than both 2^k and 2^-k are normal numbers.
INTEGRALROB_INLINE float inverse_power(float x) {
    const uint32_t exponent = bit_cast<uint32_t>(x) >> 23;
    return bit_cast<float>((exponent < 1 ? 253u : exponent > 253 ? 1u : 254u - exponent) << 23);
}
INTEGRALROB_INLINE double inverse_power(double x) {
    const uint64_t exponent = bit_cast<uint64_t>(x) >> 52;
    return bit_cast<double>((exponent < 1 ? 2045u : exponent > 2045 ? 1u : 2046u - exponent) << 52);
}

// A sum that carries along the error of every addition (Knuth's TwoSum): right to a rounding. For float64,
// where no wider type is at hand.
template <typename V>
struct CompensatedSum {
    V sum{}, error{};

    INTEGRALROB_INLINE void add(V x) {
        const V next = sum + x;
        const V added = next - sum;
        error += (sum - (next - added)) + (x - added);
        sum = next;
    }
    INTEGRALROB_INLINE void add(const CompensatedSum& other) {
        add(other.sum);
        error += other.error;
    }
    // Of a number: an overflow leaves an infinite sum, with an error that is none.
    INTEGRALROB_INLINE V value() const {
        const V value = sum + error;
        return value == value ? value : sum;
    }
};

// The search for x where a monotone function is `target`: bracketed Newton. A pass over the row gives the
// value at `at`; update() then says that `at` is the answer, or moves it to where the next pass is to be.
//
// `outside`: an x with too large a value, and the first `at`. `inside`: one with a small enough value. Either
// may be the larger. `rounding`: how much larger than the target a value may be, relatively. `resolution`:
// the relative change of x that makes another function.
class BallSearch {
  public:
    double at;
    bool found = false;

    INTEGRALROB_INLINE BallSearch(double outside, double inside, double target, double rounding,
                                  double resolution)
        : at(outside),
          start_(outside),
          outside_(outside),
          inside_(inside),
          excess_inside_(-target),
          target_(target),
          rounding_(rounding),
          resolution_(resolution),
          most_at_start_(target + rounding * target),
          most_(most_at_start_) {}

    // The row is its own projection onto the ball.
    INTEGRALROB_INLINE bool inside() const { return found && at == start_; }

    // Another x for the next pass, if it can be the answer: also for the first one.
    INTEGRALROB_INLINE void guess(double x) {
        if (!found && between(x)) at = x;
    }

  protected:
    INTEGRALROB_INLINE double target() const { return target_; }

    // No more than the target at the start, or elsewhere.
    INTEGRALROB_INLINE void be_strict_at_start() { most_at_start_ = target_; }
    INTEGRALROB_INLINE void be_strict_elsewhere() { most_ = target_; }

    INTEGRALROB_INLINE void restart(double outside, double inside, double resolution) {
        at = outside_ = outside;
        inside_ = inside;
        excess_outside_ = 0;
        excess_inside_ = -target_;
        resolution_ = resolution;
    }

    // `newton`: where the value is the target if the function goes on as it does at `at`; anything if
    // nowhere. `slope`: d value / d log x, up to its sign.
    INTEGRALROB_INLINE void update(double value, double newton, double slope) {
        const bool at_start = at == start_;
        const double most = at_start ? most_at_start_ : most_;
        const double least = target_ - 4 * (rounding_ * target_ + resolution_ * slope);
        if (!(value > most) && !(value <= most)) at = value + target_;  // NaN
        found = !(value > most) && (at_start || !(value < least));
        if (found) return;
        ++passes_;
        if (value > most) {
            outside_ = at;
            excess_outside_ = value - target_;
            // A step by less than the resolution would lead nowhere.
            if (inside_ > at) {
                newton = newton < at + resolution_ * at ? at + resolution_ * at : newton;
            } else {
                newton = newton > at - resolution_ * at ? at - resolution_ * at : newton;
            }
        } else {
            inside_ = at;
            excess_inside_ = value - target_;
            // No pass was at the start, which may be the answer: a step so close to it that the two values
            // differ by roundings goes there.
            if (excess_outside_ == 0 &&
                !(std::fabs(newton - outside_) * slope > 8 * rounding_ * target_ * at)) {
                newton = outside_;
            }
        }
        go_to(newton);
    }

  private:
    double start_, outside_, inside_;
    double excess_outside_ = 0, excess_inside_;  // 0: no pass was there yet
    double target_, rounding_, resolution_, most_at_start_, most_;
    int passes_ = 0, misses_ = 0;

    INTEGRALROB_INLINE bool between(double x) const {
        return (outside_ < x && x < inside_) || (inside_ < x && x < outside_);
    }

    // Newton's step. Where it leaves the bracket, the answer may be the start, or the function has flat
    // parts: the secant's step, the first time, then the middle of the bracket's logarithms. After many
    // passes every second one halves the bit patterns between the ends, of which there are 64 halves.
    INTEGRALROB_INLINE void go_to(double newton) {
        constexpr int kMany = 40;
        at = newton;
        if (excess_outside_ == 0 && !between(at)) {
            at = outside_;
            return;
        }
        const double width = inside_ - outside_;
        const double inner = inside_ - (width > 0 ? resolution_ : -resolution_) * inside_;
        found = !between(inner);  // nothing left to choose from
        if (!between(at)) {
            ++misses_;
            at = misses_ == 1 ? outside_ + width * (excess_outside_ / (excess_outside_ - excess_inside_))
                              : std::sqrt(outside_) * std::sqrt(inside_);
            if (!between(at)) at = misses_ == 1 ? inner : outside_ + 0.5 * width;
        }
        if (passes_ > kMany && passes_ % 2 == 0) {
            const uint64_t x = bit_cast<uint64_t>(outside_), y = bit_cast<uint64_t>(inside_);
            at = bit_cast<double>(x / 2 + y / 2 + (x & y & 1));
        }
        if (!between(at)) at = inner;
        if (found) at = inside_;
    }
};

// x is θ; or, for a small ball, the distance of θ from the magnitude of an entry that reaches the ball, so
// that balls far smaller than a rounding of the entries are filled. At θ = 0, the start, the
// row is its own projection if it is inside the ball.
template <typename A>
class L1Search : public BallSearch {
  public:
    // `largest`: the largest magnitude with b_i > 0, or of the row. `reaching`: the largest one with b_i = ε,
    // 0 if there is none or it is not known: such an entry has all of ε for θ <= a_i - ε.
    INTEGRALROB_INLINE L1Search(A eps, A largest, A reaching = 0)
        : BallSearch(0, largest, eps, 0.5 * kRounding<A>, kResolution),
          largest_(largest),
          reaching_(reaching) {
        // An entry that reaches the ball would leave room for what is smaller than a rounding of ε.
        be_strict_at_start();
    }

    INTEGRALROB_INLINE Threshold<A> threshold() const {
        return near_ ? Threshold<A>(reaching_, at) : Threshold<A>(at);
    }
    INTEGRALROB_INLINE double theta() const { return near_ ? reaching_ - at : at; }
    // Another θ for the next pass, if it can be the answer. (Of a small ball it is not told from its
    // neighbours before the search knows where to look. Nor is one far larger than the ball, where any norm
    // is within the resolution of θ.)
    INTEGRALROB_INLINE void guess(double theta) {
        constexpr double kFar = 0x1p10;
        if (at_reaching_ || theta > kFar * target() || (!started_ && target() < reaching_)) return;
        BallSearch::guess(near_ ? reaching_ - theta : theta);
    }

    // norm = Σ |δ_i|, free = #{0 < |δ_i| < b_i}
    INTEGRALROB_INLINE void update(double norm, double free) {
        if (at_reaching_ && norm <= target()) return start_near();
        const double step = (norm - target()) / free;
        // Of the largest float64 the product would overflow, and no value be enough.
        BallSearch::update(norm, near_ ? at - step : at + step, std::fmin(free * at, kLargest<double>));
        if (found || near_ || at_reaching_ || started_) {
            at_reaching_ = false;
            return;
        }
        started_ = true;
        if (target() >= reaching_) return;
        if (reaching_ == largest_) {
            start_near();
        } else {  // find out on which side of it θ is
            at_reaching_ = true;
            at = reaching_;
        }
    }

  private:
    static constexpr double kResolution = sizeof(A) == 4 ? 0x1p-46 : 0x1p-52;

    double largest_, reaching_;
    bool started_ = false, at_reaching_ = false, near_ = false;

    // θ is in [reaching - ε, reaching].
    INTEGRALROB_INLINE void start_near() {
        constexpr double kNormal = 0x1p-1022, kNear = 2 * kRounding<A>;
        at_reaching_ = false;
        near_ = true;
        const double inside = target() * 0x1p-80;
        restart(target() * (1 + 2 * kNear), inside > kNormal ? inside : kNormal, kNear);
    }
};

// x is s / unit. At s = 1, the start, the row is its own projection if it is inside the ball.
template <typename A>
class L2Search : public BallSearch {
  public:
    INTEGRALROB_INLINE L2Search(A eps, A largest)
        : BallSearch(1 / static_cast<double>(inverse_power(largest)), least(eps),
                     square(eps, square_unit(eps)), kLeeway, 4 * kRounding<A>),
          unit_(inverse_power(largest)) {
        if (sizeof(A) == 8) be_strict_elsewhere();  // the sum's own roundings are as large
    }

    INTEGRALROB_INLINE Factor<A> factor() const { return {unit_, at}; }

    // Another x for the next pass, if it can be the answer, and not so close to the start that it would be
    // taken where the start can be.
    INTEGRALROB_INLINE void guess(double x) {
        if (x * unit_ < 1 - 32 * kRounding<A>) BallSearch::guess(x);
    }

    // Where the unclipped row has the norm ε: never above the root. squares = Σ (unit·a_i)²
    INTEGRALROB_INLINE void guess_from(A eps, double squares) { guess(eps / std::sqrt(squares)); }

    // free = Σ δ_i² over δ_i < b_i, clipped = Σ δ_i² over δ_i = b_i, both of square(δ_i, square_unit(ε))
    INTEGRALROB_INLINE void update(double free, double clipped) {
        BallSearch::update(free + clipped, at * std::sqrt((target() - clipped) / free), 2 * free);
        if (target() == 0 && !found) {
            found = true;
            at = 0;
        }
    }

    // Squares of float32 do not overflow in float64; float64 is brought to the size of ε first.
    static INTEGRALROB_INLINE double square_unit(A eps) { return sizeof(A) == 4 ? 1.0 : inverse_power(eps); }
    static INTEGRALROB_INLINE double square(A x, double unit) { return (x * unit) * (x * unit); }

  private:
    // Of the squared norm: a rounding of ε, of which squares of float64, rounded themselves, take a half.
    static constexpr double kLeeway = (sizeof(A) == 4 ? 2 : 1) * kRounding<A>;

    A unit_;

    // Inside, with any number of entries of a size of up to 2 / unit; 0 where that is no normal number.
    static INTEGRALROB_INLINE double least(A eps) { return eps * 0x1p-33 > 0x1p-1022 ? eps * 0x1p-33 : 0.0; }
};

// An entry of the derivative. The row y was projected to δ; m_i = |δ_i|, b_i is the box's limit alone. Where
// the ball cuts the row, entries are clipped by the box (C: a_i > b_i, m_i >= b_i), 0, or free (F).
// With g the gradient,
//   l1: d_i = sign(y_i)      l2: d_i = δ_i      κ = Σ_F g_i·d_i / Σ_F d_i², 0 if F is empty
//   grad_delta_i = s·(g_i - κ·d_i) on F, else 0   (l1: s = 1)
//   grad_center_i = -(g_i - κ·d_i) on C where b_i > 0, else 0
//   grad_eps = κ in l1, ε·κ in l2
// Where it does not, entries are free or clipped, s = 1 and κ = 0. An entry on a limit is free.
template <typename T>
struct ProjectedEntry {
    using A = arithmetic_t<T>;
    A a, m, b;

    // `room`: limit() with an infinite ε; infinite without a box
    INTEGRALROB_INLINE ProjectedEntry(T y, T result, A room)
        : a(std::fabs(A(widen(y)))), m(std::fabs(A(widen(result)))), b(widen(signed_entry(room, T{}))) {}

    INTEGRALROB_INLINE bool clipped() const { return (a > b) & (m >= b); }
    INTEGRALROB_INLINE bool moves_with_center() const { return clipped() & (b > A(0)); }
    // The ball cuts the row if one of its entries was cut.
    INTEGRALROB_INLINE bool cut() const { return (m < a) & !clipped(); }
    // Whether the derivative by y is not 0, in a row that the ball cuts or not. (In l2, s·0 is 0, and yet
    // moves with y; what came out as 0 by rounding does not.)
    template <bool kL2>
    INTEGRALROB_INLINE bool follows(bool cut) const {
        return ((m > A(0)) | (kL2 & (a == A(0))) | !cut) & !clipped();
    }
};

}  // namespace integralrob
