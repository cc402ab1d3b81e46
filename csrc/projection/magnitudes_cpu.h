// Of the magnitudes of a row: the k-th largest, exactly, by counting, and the l2 norm.
#pragma once

#include <limits>

#include "projection/row_cpu.h"

namespace integralrob::INTEGRALROB_ISA_NAMESPACE {

// Of a probe p > 0: how many magnitudes are at least p, the least of these, and the largest of the others.
template <typename A>
struct Tally {
    double at_least = 0;
    A least = std::numeric_limits<A>::infinity(), below = 0;
    bool unknown = false;  // there is a NaN

    void add(const Tally& other) {
        at_least += other.at_least;
        least = std::min(least, other.least);
        below = std::max(below, other.below);
        unknown = unknown || other.unknown;
    }
};

template <typename T>
class Magnitudes {
    using A = arithmetic_t<T>;

    struct Count {
        double count = 0;
        void add(const Count& other) { count += other.count; }
    };

  public:
    Magnitudes(const T* values, int64_t length, ParallelFor parallel)
        : values_(values), length_(length), parallel_(length <= kChunk ? nullptr : parallel) {}

    Tally<A> tally(A probe) const {
        return add_up<Tally<A>>(parallel_, chunks(), [&](int64_t i) { return tally(probe, i); });
    }

    double count(A probe) const {
        const auto of = [&](int64_t i) {
            decltype(Lane<A>{} < Lane<A>{}) minus{};
            for_chunk(i, [&](Lane<A> x) __attribute__((always_inline)) { minus += absolute(x) >= probe; });
            return Count{count_of(minus)};
        };
        return add_up<Count>(parallel_, chunks(), of).count;
    }

    // A bracket [low, high] of the answer: k or more values are at least `low`, fewer than k are larger than
    // `high`. A probe is where the secant of the counts' logarithms, through the two probes before, has the
    // count k - 0.5, or halves the bit patterns. Probes are counted, which is fast; values next to them are
    // looked for where one of these can be the answer, or where, because of ties, none is.
    A kth_largest(int64_t k, const Tally<A>& of_infinity) const {
        using Bits = std::conditional_t<sizeof(A) == 4, uint32_t, uint64_t>;
        constexpr int kMany = 16;
        if (of_infinity.at_least >= k) return std::numeric_limits<A>::infinity();
        if (of_infinity.at_least == k - 1) return of_infinity.below;
        const auto excess = [&](double count) { return std::log(std::max(count, 0.5) / (k - 0.5)); };
        A low = 0, high = of_infinity.below, last = low, probe = high;
        double excess_of_last = excess(length_), excess_of_probe = excess(of_infinity.at_least);
        for (int i = 1; low < high; ++i) {
            const double share = excess_of_probe / (excess_of_last - excess_of_probe);
            const A secant = probe + static_cast<A>(share) * (probe - last);
            last = probe;
            excess_of_last = excess_of_probe;
            probe = secant;
            if (i % (i < kMany ? 8 : 2) == 0 || !(probe > low && probe <= high)) {
                const Bits from = bit_cast<Bits>(low), to = bit_cast<Bits>(high);
                probe = bit_cast<A>(static_cast<Bits>(from + (to - from + 1) / 2));
            }
            const double counted = i < kMany ? count(probe) : k;
            const bool look = counted == k || counted == k - 1;
            const Tally<A> found = look ? tally(probe) : Tally<A>{counted, probe, before(probe)};
            if (found.at_least >= k) {
                low = found.least;
            } else {
                high = found.below;
            }
            if (look && found.at_least == k) return low;
            if (look && found.at_least == k - 1) return high;
            excess_of_probe = excess(found.at_least);
        }
        return low;
    }

    // Σ (unit·|value|)², an infinite one counting as the largest number. `unit`: for float64 only.
    double squares(double unit) const {
        const auto of = [&](int64_t i) {
            VectorSum<A> sum;
            for_chunk(i, [&](Lane<A> x) __attribute__((always_inline)) {
                sum.add_square(finite(absolute(x), kLargest<A>), unit);
            });
            return sum.total();
        };
        return add_up<CompensatedSum<double>>(parallel_, chunks(), of).value();
    }

  private:
    const T* values_;
    int64_t length_;
    ParallelFor parallel_;

    static A before(A x) { return std::nextafter(x, A(0)); }

    int64_t chunks() const { return (length_ + kChunk - 1) / kChunk; }

    // body(x) for vectors of the chunk, the last one filled up with zeros.
    template <typename Body>
    INTEGRALROB_INLINE void for_chunk(int64_t i, const Body& body) const {
        const T* values = values_ + i * kChunk;
        const int64_t count = std::min(kChunk, length_ - i * kChunk), whole = count - count % kLanes<A>;
        for (int64_t k = 0; k < whole; k += kLanes<A>) body(load<Lane<A>>(values + k));
        if (whole < count) {
            T last[kLanes<A>] = {};
            std::copy(values + whole, values + count, last);
            body(load<Lane<A>>(last));
        }
    }

    Tally<A> tally(A probe, int64_t i) const {
        using V = Lane<A>;
        const V zero{}, infinity = zero + std::numeric_limits<A>::infinity();
        V least = infinity, below{};
        decltype(zero < zero) minus{}, unknown{};
        for_chunk(i, [&](V x) __attribute__((always_inline)) {
            const V size = absolute(x), upper = size >= probe ? size : infinity;
            const V lower = size < probe ? size : zero;
            minus += size >= probe;
            least = least < upper ? least : upper;
            below = below > lower ? below : lower;
            unknown |= x != x;
        });
        Tally<A> tally;
        tally.at_least = count_of(minus);
        tally.least = fold(least, [](A x, A y) { return x < y ? x : y; });
        tally.below = fold(below, Larger());
        tally.unknown = fold(unknown, [](auto x, auto y) { return x | y; }) != 0;
        return tally;
    }
};

}  // namespace integralrob::INTEGRALROB_ISA_NAMESPACE
