// Files of kernels that are included after this header are launched with at most so many blocks: a few have
// to go around, as on a GPU only the largest grids do.
#pragma once

#include "common/launch.cuh"

namespace integralrob::cuda {

inline int64_t most_blocks = INT64_MAX;

template <typename Kernel, typename... Arguments>
void launch_limited(Kernel* kernel, Launch shape, cudaStream_t stream, const Arguments&... arguments) {
    shape.blocks = std::min(shape.blocks, most_blocks);
    launch(kernel, shape, stream, arguments...);
}

}  // namespace integralrob::cuda

#define launch launch_limited
