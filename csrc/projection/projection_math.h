// Scalar maths of the l-infinity steps, the same for every device.
#pragma once

#include <cmath>

#include "projection/step.h"

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

// A limit that is NaN is none.
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

// Of a step each choice is between numbers that are there already: so compilers make vector code of it for
// every instruction set.

// clip(clip(v, x - eps, x + eps), lo, hi)
template <typename A>
INTEGRALROB_INLINE A clip_linf(A v, A x, A eps, A lo, A hi) {
    return clip(clip(v, x - eps, x + eps), lo, hi);
}

// The same for a result in the storage type: x ± eps is rounded towards x where the nearest number is further
// from it than eps, so that no rounding leads out of the ball, nor that of what is between them. NaN if v, x
// or eps is.
template <typename T, typename A = arithmetic_t<T>>
INTEGRALROB_INLINE A clip_linf_to(A v, A x, A eps, A lo, A hi) {
    const bool above = v > x;
    const A limit = moved<T>(x, above ? eps : -eps);
    const A least = v < limit ? v : limit, most = v > limit ? v : limit;  // limit if either is NaN
    const A inside = above ? least : most;
    return clip(v == v ? inside : v, lo, hi);
}

// x_adv + step · sign(grad)
template <typename A>
INTEGRALROB_INLINE A along_sign(A x_adv, A grad, A step) {
    const A one = std::copysign(A(1), grad);
    const A sign = (grad == A(0)) | (grad != grad) ? grad : one;
    return x_adv + step * sign;
}

}  // namespace integralrob
