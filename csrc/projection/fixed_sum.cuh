// Sums in fixed point: integers, so that the order of the terms leaves no trace in the result.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "common/half.h"

namespace integralrob::cuda {

template <typename A>
struct FixedPoint;
template <>
struct FixedPoint<float> {
    using Bits = uint32_t;
    using Total = uint64_t;
    static constexpr int kDigits = 23;
};
template <>
struct FixedPoint<double> {
    using Bits = uint64_t;
    using Total = unsigned __int128;
    static constexpr int kDigits = 52;
};

// A number of steps of 2^-2d, where A has d binary digits after the point.
template <typename A>
struct FixedTotal {
    using Total = typename FixedPoint<A>::Total;
    // Sums of magnitude up to this are represented.
    static constexpr int64_t kRange = int64_t{1} << (8 * sizeof(Total) - 1 - 2 * FixedPoint<A>::kDigits);

    Total steps = 0;

    __device__ __forceinline__ void merge(const FixedTotal& other) { steps += other.steps; }

    __device__ __forceinline__ double value() const {
        if constexpr (sizeof(Total) == 8) {
            return static_cast<double>(static_cast<int64_t>(steps)) * 0x1p-46;
        } else {
            return static_cast<double>(static_cast<int64_t>(steps >> 64)) * 0x1p-40 +
                   static_cast<double>(static_cast<uint64_t>(steps)) * 0x1p-104;
        }
    }
};

// A thread's sum of products x·y, |x·y| < 1/2, at most 512 of them.
//
// 1.5 + x·y has steps of 2^-d, which its bits count; what the rounding has left is counted in steps of 2^-2d
// in the same way. Each term is right to half such a step: 2^-47, and 2^-105 for float64.
template <typename A>
class FixedSum {
    using Bits = typename FixedPoint<A>::Bits;
    using Total = typename FixedPoint<A>::Total;
    static constexpr int kDigits = FixedPoint<A>::kDigits;
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
        return {(extended(high_) << kDigits) + extended(low_)};
    }

  private:
    Bits high_ = 0, low_ = 0;

    static __device__ __forceinline__ Total extended(Bits x) {
        return static_cast<Total>(static_cast<std::make_signed_t<Bits>>(x));
    }
};

// A power of two that brings numbers up to `largest` below 1/2, and the largest of them to 1/4 or more if
// neither it nor its inverse is out of range.
template <typename A>
__device__ __forceinline__ A fixed_unit(A largest) {
    const A unit = A(0.25) * inverse_power(largest);
    return largest * unit < A(0.5) ? unit : A(0.5) * unit;
}

}  // namespace integralrob::cuda
