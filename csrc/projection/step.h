// The steps of attacks, for every device: what they take, and the maths of one entry.
#pragma once

#include <cstdint>
#include <type_traits>

#include "projection/per_row.h"

namespace integralrob {

// A move of x_adv along the gradient, back into the ball around x and the box: [rows, length], contiguous.
template <typename T>
struct Step {
    using A = arithmetic_t<T>;
    const T *x_adv, *grad, *x;
    const T* previous;     // the x_adv of one step ago; null without momentum
    PerRow<A> eps, size;   // size: of the move
    PerRow<int64_t> kept;  // how many entries of the gradient l1 keeps, not limited to [1, length]
    A momentum, lo, hi;    // momentum: the share of the previous move
    int64_t rows, length;
    T* out;  // may be x_adv
};

// The second move of a step with momentum, where the first one led from x_adv to z. V is A or a vector of it.
template <typename V, typename A>
INTEGRALROB_INLINE V with_momentum(V z, V x_adv, V previous, A momentum) {
    return (A(1) - momentum) * (z - x_adv) + momentum * (x_adv - previous);
}

// x + delta as a number of the storage type, of which x is: the nearest one, or, where that is further from x
// than delta, the next one towards x. So a rounding does not lead out of a ball around x.
template <typename T>
INTEGRALROB_INLINE arithmetic_t<T> moved(arithmetic_t<T> x, arithmetic_t<T> delta) {
    using A = arithmetic_t<T>;
    using Bits = std::conditional_t<sizeof(A) == 4, uint32_t, uint64_t>;
    constexpr int kLast = 8 * sizeof(A) - 1;
    constexpr Bits kSign = Bits(1) << kLast;
    constexpr Bits kDropped = std::is_same_v<T, Half> ? 0x1fff : 0xffff;  // by the half types
    const A sum = x + delta, added = sum - x;
    const A error = (x - (sum - added)) + (delta - added);  // x + delta = sum + error
    const Bits bits = bit_cast<Bits>(sum), back = bit_cast<Bits>(delta) & kSign;
    const Bits away = ((bits & kSign) ^ back) >> kLast;  // 1 if the way to x leads away from 0, else 0
    const Bits next = bits - 1 + 2 * away;
    const bool beyond = bit_cast<A>(bit_cast<Bits>(error) ^ back) < A(0);  // the sum is; then it is not 0
    const Bits stepped = beyond ? next : bits;
    if constexpr (sizeof(T) > 2) return bit_cast<A>(stepped);
    const Bits kept = (stepped + (kDropped & -away)) & ~kDropped;
    const A result = bit_cast<A>(sum == sum ? kept : bits);
    if constexpr (!std::is_same_v<T, Half>) return result;
    // Up to 2^-14 a half is a multiple of 2^-24, as is what the adder makes of numbers near 0.75.
    const A nearest = (sum + A(0.75)) - A(0.75), unit = bit_cast<A>(bit_cast<Bits>(A(0x1p-24)) | back);
    const A excess = (nearest - sum) - error;
    const A small = bit_cast<A>(bit_cast<Bits>(excess) ^ back) > A(0) ? nearest - unit : nearest;
    const Bits magnitude = bits & ~kSign;
    const A large = bit_cast<A>((bits & kSign) | 0x477fe000);
    const A normal = (magnitude >= 0x47800000) & (magnitude < 0x7f800000) ? large : result;
    return magnitude <= 0x38800000 ? small : normal;
}

}  // namespace integralrob
