// Scalar maths of the l-infinity steps, the same for every device.
#pragma once

#include "common/half.h"

namespace integralrob {

// max and min that are NaN if either argument is.
template <typename A>
INTEGRALROB_INLINE A nan_max(A x, A y) {
    return x > y || x != x ? x : y;
}
template <typename A>
INTEGRALROB_INLINE A nan_min(A x, A y) {
    return x < y || x != x ? x : y;
}

// Of limits that are numbers.
template <typename A>
INTEGRALROB_INLINE A clip(A x, A lo, A hi) {
    const A above = x < lo ? lo : x;
    return above > hi ? hi : above;
}

// clip(delta, max(-eps, min(lo - center, 0)), min(eps, max(hi - center, 0)))
template <typename A>
INTEGRALROB_INLINE A project_linf(A delta, A eps, A center, A lo, A hi) {
    const A least = nan_max(-eps, nan_min(lo - center, A(0)));
    const A most = nan_min(eps, nan_max(hi - center, A(0)));
    return nan_min(nan_max(delta, least), most);
}

// clip(clip(moved, x - eps, x + eps), lo, hi)
template <typename A>
INTEGRALROB_INLINE A clip_linf(A moved, A x, A eps, A lo, A hi) {
    return nan_min(nan_max(nan_min(nan_max(moved, x - eps), x + eps), lo), hi);
}

// x_adv + step · sign(grad), clipped
template <typename A>
INTEGRALROB_INLINE A linf_step(A x_adv, A grad, A x, A eps, A step, A lo, A hi) {
    const A sign = grad > A(0) ? A(1) : grad < A(0) ? A(-1) : grad;  // 0 for 0, NaN for NaN
    return clip_linf(x_adv + step * sign, x, eps, lo, hi);
}

}  // namespace integralrob
