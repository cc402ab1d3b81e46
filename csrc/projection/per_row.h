// A parameter that rows may differ in.
#pragma once

#include <cstdint>

#include "common/half.h"

namespace integralrob {

// Values in memory, one for each row (stride 1) or one for all (stride 0); or, without values, a number.
template <typename A>
struct PerRow {
    const A* values;
    int64_t stride;
    A number = A(0);

    INTEGRALROB_INLINE A operator[](int64_t row) const {
        return values == nullptr ? number : values[row * stride];
    }
};

}  // namespace integralrob
