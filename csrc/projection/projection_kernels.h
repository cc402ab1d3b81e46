// CPU kernels of projections and steps: raw pointers and sizes, no torch. All tensors are contiguous, [rows,
// length]. Each function works on the elements [begin, end) of the flattened tensor.
#pragma once

#include <cstdint>

#include "common/half.h"
#include "common/isa.h"
#include "projection/per_row.h"

namespace integralrob {

#define INTEGRALROB_DECLARE_PROJECTION(ISA)                                                              \
    namespace ISA {                                                                                      \
    /* center may be null: then there is no box */                                                       \
    template <typename T>                                                                                \
    void project_linf(const T* delta, const T* center, PerRow<arithmetic_t<T>> eps, arithmetic_t<T> lo,  \
                      arithmetic_t<T> hi, int64_t length, T* out, int64_t begin, int64_t end);           \
    /* out may be x_adv */                                                                               \
    template <typename T>                                                                                \
    void linf_step(const T* x_adv, const T* grad, const T* x, PerRow<arithmetic_t<T>> eps,               \
                   PerRow<arithmetic_t<T>> step, arithmetic_t<T> lo, arithmetic_t<T> hi, int64_t length, \
                   T* out, int64_t begin, int64_t end);                                                  \
    }
INTEGRALROB_ISAS(INTEGRALROB_DECLARE_PROJECTION)
#undef INTEGRALROB_DECLARE_PROJECTION

}  // namespace integralrob
