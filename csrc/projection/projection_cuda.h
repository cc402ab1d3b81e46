// CUDA kernels of projections and steps: raw pointers and sizes, no torch. All tensors are contiguous, [rows,
// length], in memory of the current device, as are the values of parameters. Work is enqueued on the stream.
#pragma once

#include <cstdint>

#include "common/half.h"
#include "projection/per_row.h"
#include "projection/step.h"

typedef struct CUstream_st* cudaStream_t;

namespace integralrob::cuda {

// center may be null: then there is no box
template <typename T>
void project_linf(const T* delta, const T* center, PerRow<arithmetic_t<T>> eps, arithmetic_t<T> lo,
                  arithmetic_t<T> hi, int64_t rows, int64_t length, T* out, cudaStream_t stream);

// center may be null: then there is no box
template <typename T>
void project_l1(const T* delta, const T* center, PerRow<arithmetic_t<T>> eps, arithmetic_t<T> lo,
                arithmetic_t<T> hi, int64_t rows, int64_t length, T* out, cudaStream_t stream);
template <typename T>
void project_l2(const T* delta, const T* center, PerRow<arithmetic_t<T>> eps, arithmetic_t<T> lo,
                arithmetic_t<T> hi, int64_t rows, int64_t length, T* out, cudaStream_t stream);

// The gradients of delta, eps [rows] and center from that of the result; grad_center is null without center.
template <typename T>
void project_linf_backward(const T* grad, const T* delta, PerRow<arithmetic_t<T>> eps, const T* center,
                           arithmetic_t<T> lo, arithmetic_t<T> hi, int64_t rows, int64_t length,
                           T* grad_delta, arithmetic_t<T>* grad_eps, T* grad_center, cudaStream_t stream);
template <typename T>
void project_l1_backward(const T* grad, const T* delta, const T* result, PerRow<arithmetic_t<T>> eps,
                         const T* center, arithmetic_t<T> lo, arithmetic_t<T> hi, int64_t rows,
                         int64_t length, T* grad_delta, arithmetic_t<T>* grad_eps, T* grad_center,
                         cudaStream_t stream);
template <typename T>
void project_l2_backward(const T* grad, const T* delta, const T* result, PerRow<arithmetic_t<T>> eps,
                         const T* center, arithmetic_t<T> lo, arithmetic_t<T> hi, int64_t rows,
                         int64_t length, T* grad_delta, arithmetic_t<T>* grad_eps, T* grad_center,
                         cudaStream_t stream);

template <typename T>
void linf_step(const Step<T>& step, cudaStream_t stream);
// Of rows of less than 2^32 entries.
template <typename T>
void l1_step(const Step<T>& step, cudaStream_t stream);
template <typename T>
void l2_step(const Step<T>& step, cudaStream_t stream);

}  // namespace integralrob::cuda
