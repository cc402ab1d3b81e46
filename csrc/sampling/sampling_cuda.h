// The sampling family on a GPU: raw device pointers, sizes, a stream. All tensors are contiguous.
//
// T is the storage type (float, double, Half, BFloat16), A = arithmetic_t<T> the type of sums and band
// weights. Nothing here waits for the GPU or allocates; each result depends on its inputs only, bit for bit.
#pragma once

#include <cstdint>

#include "common/half.h"

typedef struct CUstream_st* cudaStream_t;

namespace integralrob::cuda {

// One sampled axis: output n is Σ_k weight[k] · input[node k] over its taps k, which lie one after another.
//
// A band has the same number of taps for each output, on consecutive nodes: index [outputs] holds the first.
// Its transpose has any number, offset [outputs + 1] says where they begin, and index and weight hold, for
// each tap, the node and its weight; the nodes of an output ascend. Of the identity each output is the node
// of its number, and there are no arrays.
template <typename A>
struct Axis {
    int64_t outputs, nodes, taps;  // taps: of each output, rounded up on average for a transpose
    const int64_t* index;
    const A* weight;
    const int64_t* offset = nullptr;
    bool identity = false;
};

template <typename A>
Axis<A> identity(int64_t nodes) {
    return {nodes, nodes, 1, nullptr, nullptr, nullptr, true};
}

// The transpose of a band, so that an adjoint is a sampling too: offset [nodes + 1], index and weight
// [outputs · taps]. A start out of range counts as 0, and its weights as NaN.
template <typename A>
Axis<A> transpose(const Axis<A>& band, int64_t* offset, int64_t* index, A* weight, cudaStream_t stream);

// values [outer, nodes, inner] -> out [outer, outputs, inner]
template <typename T>
void sample_1d(const T* values, const Axis<arithmetic_t<T>>& axis, int64_t outer, int64_t inner, T* out,
               cudaStream_t stream);

// values [nodes0, nodes1, inner] -> out [outputs0, outputs1, inner]
template <typename T>
void sample_2d(const T* values, const Axis<arithmetic_t<T>>& axis0, const Axis<arithmetic_t<T>>& axis1,
               int64_t inner, T* out, cudaStream_t stream);

// The weight gradients split their sums over `parts` of the rows (of the columns), whose sums they leave in
// partial [parts, outputs, taps], needed if parts > 1.
struct Parts {
    int64_t parts, size;  // size: rows (columns) in each
};
Parts weight0_grad_parts(int64_t outputs0, int64_t taps0, int64_t nodes1, int64_t inner);
Parts weight1_grad_parts(int64_t nodes0, int64_t outputs1, int64_t taps1, int64_t inner);

// out[o, s] = Σ_{j, r} (grad[o] through axis 1 transposed)[j, r] · values[start0[o] + s, j, r]
//
// axis0: the band without weights; transposed1: outputs nodes1.
template <typename T>
void weight0_grad_2d(const T* grad, const T* values, const Axis<arithmetic_t<T>>& axis0,
                     const Axis<arithmetic_t<T>>& transposed1, int64_t inner, Parts parts,
                     arithmetic_t<T>* partial, arithmetic_t<T>* out, cudaStream_t stream);

// out[i, t] = Σ_{s, r} (grad through axis 0 transposed)[s, i, r] · values[s, start1[i] + t, r]
//
// transposed0: outputs nodes0; the identity where axis 0 is not sampled, as in one dimension. axis1: the band
// without weights.
template <typename T>
void weight1_grad(const T* grad, const T* values, const Axis<arithmetic_t<T>>& transposed0,
                  const Axis<arithmetic_t<T>>& axis1, int64_t inner, Parts parts, arithmetic_t<T>* partial,
                  arithmetic_t<T>* out, cudaStream_t stream);

}  // namespace integralrob::cuda
