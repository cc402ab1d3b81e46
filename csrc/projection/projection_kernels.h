// CPU kernels of projections and steps: raw pointers and sizes, no torch. All tensors are contiguous, [rows,
// length]. center may be null: then there is no box.
#pragma once

#include <cstdint>

#include "common/half.h"
#include "common/isa.h"
#include "projection/per_row.h"
#include "projection/step.h"

namespace integralrob {

// Calls body(context, begin, end) for ranges that make up [0, count), on several threads.
using ParallelFor = void (*)(int64_t count, void (*body)(const void* context, int64_t begin, int64_t end),
                             const void* context);

#define INTEGRALROB_DECLARE_PROJECTION(ISA)                                                                 \
    namespace ISA {                                                                                         \
    /* The elements [begin, end) of the flattened tensor. */                                                \
    template <typename T>                                                                                   \
    void project_linf(const T* delta, const T* center, PerRow<arithmetic_t<T>> eps, arithmetic_t<T> lo,     \
                      arithmetic_t<T> hi, int64_t length, T* out, int64_t begin, int64_t end);              \
    template <typename T>                                                                                   \
    void linf_step(const Step<T>& step, int64_t begin, int64_t end);                                        \
    /* The rows [begin, end): on this thread, or, where `parallel` is given, each on all threads. */        \
    template <typename T>                                                                                   \
    void project_l1(const T* delta, const T* center, PerRow<arithmetic_t<T>> eps, arithmetic_t<T> lo,       \
                    arithmetic_t<T> hi, int64_t length, T* out, int64_t begin, int64_t end,                 \
                    ParallelFor parallel);                                                                  \
    template <typename T>                                                                                   \
    void project_l2(const T* delta, const T* center, PerRow<arithmetic_t<T>> eps, arithmetic_t<T> lo,       \
                    arithmetic_t<T> hi, int64_t length, T* out, int64_t begin, int64_t end,                 \
                    ParallelFor parallel);                                                                  \
    template <typename T>                                                                                   \
    void l1_step(const Step<T>& step, int64_t begin, int64_t end, ParallelFor parallel);                    \
    template <typename T>                                                                                   \
    void l2_step(const Step<T>& step, int64_t begin, int64_t end, ParallelFor parallel);                    \
    /* Likewise. grad_eps: [rows]; grad_center: null without center. */                                     \
    template <typename T>                                                                                   \
    void project_linf_backward(const T* grad, const T* delta, PerRow<arithmetic_t<T>> eps, const T* center, \
                               arithmetic_t<T> lo, arithmetic_t<T> hi, int64_t length, T* grad_delta,       \
                               arithmetic_t<T>* grad_eps, T* grad_center, int64_t begin, int64_t end,       \
                               ParallelFor parallel);                                                       \
    template <typename T>                                                                                   \
    void project_l1_backward(const T* grad, const T* delta, const T* result, PerRow<arithmetic_t<T>> eps,   \
                             const T* center, arithmetic_t<T> lo, arithmetic_t<T> hi, int64_t length,       \
                             T* grad_delta, arithmetic_t<T>* grad_eps, T* grad_center, int64_t begin,       \
                             int64_t end, ParallelFor parallel);                                            \
    template <typename T>                                                                                   \
    void project_l2_backward(const T* grad, const T* delta, const T* result, PerRow<arithmetic_t<T>> eps,   \
                             const T* center, arithmetic_t<T> lo, arithmetic_t<T> hi, int64_t length,       \
                             T* grad_delta, arithmetic_t<T>* grad_eps, T* grad_center, int64_t begin,       \
                             int64_t end, ParallelFor parallel);                                            \
    }
INTEGRALROB_ISAS(INTEGRALROB_DECLARE_PROJECTION)
#undef INTEGRALROB_DECLARE_PROJECTION

}  // namespace integralrob
