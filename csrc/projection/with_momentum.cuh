// with_momentum() of step.h in fixed roundings: compilers may fuse one product or the other.
#pragma once

#include <cuda_runtime.h>

namespace integralrob::cuda {

template <typename A>
__device__ __forceinline__ A with_momentum(A z, A x_adv, A previous, A momentum) {
    return fma(A(1) - momentum, z - x_adv, momentum * (x_adv - previous));
}

}  // namespace integralrob::cuda
