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

// x + delta in the storage type, of which x is: the nearest number, or, where that is further from x than
// delta, the next one towards x. So a rounding does not lead out of a ball around x.
template <typename T>
INTEGRALROB_INLINE T moved(arithmetic_t<T> x, arithmetic_t<T> delta) {
    using A = arithmetic_t<T>;
    using Bits =
        std::conditional_t<sizeof(T) == 2, uint16_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>;
    constexpr Bits kSign = Bits(1) << (8 * sizeof(T) - 1);
    const A sum = x + delta, added = sum - x;
    const A error = (x - (sum - added)) + (delta - added);  // x + delta = sum + error
    const T nearest = narrow<T>(sum);
    const A excess = (A(widen(nearest)) - sum) - error;  // = nearest - (x + delta)
    const bool back = delta < A(0);
    const bool beyond = (back ? -excess : excess) > A(0);
    const Bits bits = bit_cast<Bits>(nearest);
    Bits next = ((bits & kSign) != 0) == back ? bits - 1 : bits + 1;
    // A sum that is not exact is not 0, but a half type may round it to 0.
    if (sizeof(T) == 2 && (bits & ~kSign) == 0) next = back ? 1 : kSign | 1;
    return bit_cast<T>(static_cast<Bits>(beyond ? next : bits));
}

}  // namespace integralrob
