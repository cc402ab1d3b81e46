// How kernels read an Axis.
#pragma once

#include <cuda_runtime.h>

#include "sampling/sampling_cuda.h"

namespace integralrob::cuda {

// The taps of one output: numbers [begin, end) of the axis' arrays.
struct TapRange {
    int64_t begin, end;
    int64_t first;         // node of the first tap
    const int64_t* index;  // node of each tap, or null: they are consecutive from `first`
    bool valid;            // false: a start out of range, the output is NaN

    __device__ int64_t count() const { return end - begin; }
    __device__ int64_t node(int64_t tap) const {
        return index != nullptr ? index[tap] : first + (tap - begin);
    }
    __device__ int64_t last() const { return node(end - 1); }
    // Without gaps? (The nodes ascend.)
    __device__ bool consecutive() const {
        return index == nullptr || count() == 0 || last() - first == count() - 1;
    }
};

template <typename A>
__device__ TapRange taps_of(const Axis<A>& axis, int64_t output) {
    if (axis.identity) return {output, output + 1, output, nullptr, true};
    if (axis.offset == nullptr) {
        const int64_t start = axis.index[output], begin = output * axis.taps;
        const bool valid = start >= 0 && start <= axis.nodes - axis.taps;
        return {begin, begin + axis.taps, valid ? start : 0, nullptr, valid};
    }
    const int64_t begin = axis.offset[output], end = axis.offset[output + 1];
    return {begin, end, begin < end ? axis.index[begin] : 0, axis.index, true};
}

template <typename A>
__device__ A weight_of(const Axis<A>& axis, int64_t tap) {
    return axis.identity ? A(1) : axis.weight[tap];
}

template <typename A>
__device__ A not_a_number() {
    return static_cast<A>(__int_as_float(0x7fc00000));
}

}  // namespace integralrob::cuda
