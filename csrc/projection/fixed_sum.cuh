// Sums in fixed point: integers, so that the order of the terms leaves no trace in the result.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "projection/ball_search.h"

namespace integralrob::cuda {

// A number of steps of 2^-2d, where A has d binary digits after the point; in 128 bits, as two words.
template <typename A>
class FixedTotal {
  public:
    static constexpr int kDigits = sizeof(A) == 4 ? 23 : 52;
    // Sums of magnitude up to this are represented.
    static constexpr double kRange = sizeof(A) == 4 ? 0x1p81 : 0x1p23;

    FixedTotal() = default;
    __device__ __forceinline__ explicit FixedTotal(__int128 steps)
        : low_(static_cast<uint64_t>(steps)), high_(static_cast<uint64_t>(steps >> 64)) {}

    __device__ __forceinline__ void merge(const FixedTotal& other) {
        const uint64_t low = low_ + other.low_;
        high_ += other.high_ + (low < low_ ? 1 : 0);
        low_ = low;
    }
    // Right to a rounding or two.
    __device__ __forceinline__ double value() const {
        constexpr double kStep = sizeof(A) == 4 ? 0x1p-46 : 0x1p-104;
        const bool negative = static_cast<int64_t>(high_) < 0;
        const uint64_t low = negative ? -low_ : low_, high = negative ? ~high_ + (low_ == 0 ? 1 : 0) : high_;
        const double size = (static_cast<double>(high) * 0x1p64 + static_cast<double>(low)) * kStep;
        return negative ? -size : size;
    }
    __device__ __forceinline__ bool is_zero() const { return (low_ | high_) == 0; }

  private:
    uint64_t low_ = 0, high_ = 0;
};

// A thread's sum of products x·y, |x·y| < 1/2, at most 512 of them.
//
// 1.5 + x·y has steps of 2^-d, which its bits count; what the rounding has left is counted in steps of 2^-2d
// in the same way. Each term is right to half such a step: 2^-47, and 2^-105 for float64.
template <typename A>
class FixedSum {
    using Bits = std::conditional_t<sizeof(A) == 4, uint32_t, uint64_t>;
    using Steps = std::conditional_t<sizeof(A) == 4, int64_t, __int128>;  // hold the sum of one thread
    static constexpr A kHigh = A(1.5), kLow = sizeof(A) == 4 ? A(0x1.8p-23) : A(0x1.8p-52);

  public:
    struct Term {
        Bits high, low;
    };
    static __device__ __forceinline__ Term term(A x, A y) {
        const A high = fma(x, y, kHigh);
        const A low = fma(x, y, kHigh - high) + kLow;
        return {bit_cast<Bits>(high) - bit_cast<Bits>(kHigh), bit_cast<Bits>(low) - bit_cast<Bits>(kLow)};
    }

    __device__ __forceinline__ void add(Term term) {
        high_ += term.high;
        low_ += term.low;
    }

    __device__ __forceinline__ FixedTotal<A> total() const {
        constexpr Steps kStep = Steps{1} << FixedTotal<A>::kDigits;
        return FixedTotal<A>(extended(high_) * kStep + extended(low_));
    }

  private:
    Bits high_ = 0, low_ = 0;

    static __device__ __forceinline__ Steps extended(Bits x) { return std::make_signed_t<Bits>(x); }
};

// A power of two that brings numbers up to `largest` below 1/2, and the largest of them to 1/4 or more if
// neither it nor its inverse is out of range.
template <typename A>
__device__ __forceinline__ A fixed_unit(A largest) {
    const A unit = A(0.25) * inverse_power(largest);
    return largest * unit < A(0.5) ? unit : A(0.5) * unit;
}

// A power of two that the sums of a row of this length take, so that they are represented.
template <typename A>
A scale_of_sums(int64_t length) {
    A scale = 1;
    for (double n = FixedTotal<A>::kRange; n < static_cast<double>(length); n *= 2) scale /= 2;
    return scale;
}

}  // namespace integralrob::cuda
