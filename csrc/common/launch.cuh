// The one way to launch a kernel. Kernels loop over their tiles with a stride of the grid, so that any number
// of blocks is right.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace integralrob::cuda {

struct Launch {
    int64_t blocks;  // a multiple of `cluster`; more than a grid can have are cut down to that
    int threads;
    size_t shared_bytes = 0;  // dynamic shared memory
    int cluster = 1;          // blocks that share their shared memory
    const char* purpose = "a kernel";
};

template <typename Integer>
__host__ __device__ constexpr Integer ceil_div(Integer x, Integer y) {
    return (x + y - 1) / y;
}

// The block's dynamic shared memory, 16-byte aligned.
template <typename T>
__device__ __forceinline__ T* dynamic_shared() {
#ifdef __CUDACC__
    extern __shared__ __align__(16) unsigned char shared_memory[];
    return reinterpret_cast<T*>(shared_memory);
#else
    return reinterpret_cast<T*>(simt::dynamic_shared_memory());
#endif
}

inline void check_launch(cudaError_t code, const Launch& shape) {
    if (code == cudaSuccess) return;
    cudaGetLastError();  // it is reported here, so the next check of another launch must not find it again
    std::ostringstream message;
    message << "CUDA: could not launch " << shape.purpose << " (" << shape.blocks << " blocks of "
            << shape.threads << " threads, clusters of " << shape.cluster << ", " << shape.shared_bytes
            << " bytes of shared memory): " << cudaGetErrorString(code);
    if (code == cudaErrorNoKernelImageForDevice) {
        message
            << " (which GPUs the kernels are compiled for: python -m integralrob info; TORCH_CUDA_ARCH_LIST "
               "chooses others)";
    }
    throw std::runtime_error(message.str());
}

// Of the current device.
inline int64_t multiprocessors() {
    int device = 0, count = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) {
        throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(cudaGetLastError()));
    }
    return count;
}

// What a launch is to be told, of which `cluster` is a part; allows the kernel what it takes.
template <typename... Parameters>
cudaLaunchConfig_t configure(void (*kernel)(Parameters...), const Launch& shape, cudaStream_t stream,
                             cudaLaunchAttribute& cluster) {
    constexpr size_t kSharedOfAnyKernel = 48 << 10;
    constexpr int kClusterOfAnyKernel = 8;
    constexpr int64_t kLargestGrid = INT32_MAX;
    if (shape.shared_bytes > kSharedOfAnyKernel) {
        check_launch(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                          static_cast<int>(shape.shared_bytes)),
                     shape);
    }
    if (shape.cluster > kClusterOfAnyKernel) {
        check_launch(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), shape);
    }
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {static_cast<unsigned>(shape.cluster), 1, 1};
    cudaLaunchConfig_t config = {};
    config.gridDim =
        dim3(static_cast<unsigned>(std::min(shape.blocks, kLargestGrid / shape.cluster * shape.cluster)));
    config.blockDim = dim3(static_cast<unsigned>(shape.threads));
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = stream;
    config.attrs = &cluster;
    config.numAttrs = shape.cluster > 1 ? 1 : 0;
    return config;
}

// Whether a kernel that may use clusters was compiled for an architecture that has them: a newer GPU also
// runs the PTX of older ones.
template <typename... Parameters>
bool knows_clusters(void (*kernel)(Parameters...)) {
    constexpr int kFirst = 90;
    cudaFuncAttributes attributes = {};
    const cudaError_t code = cudaFuncGetAttributes(&attributes, kernel);
    if (code != cudaSuccess) cudaGetLastError();  // the launch will say why
    return code == cudaSuccess && attributes.ptxVersion >= kFirst;
}

// Whether the GPU has room for one of the clusters, which is promised of up to 8 blocks.
template <typename... Parameters>
bool has_room(void (*kernel)(Parameters...), const Launch& shape) {
    cudaLaunchAttribute cluster = {};
    const cudaLaunchConfig_t config = configure(kernel, shape, nullptr, cluster);
    int clusters = 0;
    const cudaError_t code = cudaOccupancyMaxActiveClusters(&clusters, kernel, &config);
    if (code != cudaSuccess) cudaGetLastError();  // an answer too, not an error of the next launch
    return code == cudaSuccess && clusters > 0;
}

// Enqueues kernel(arguments...); throws std::runtime_error if that fails. No work for no blocks.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), const Launch& shape, cudaStream_t stream,
            Arguments&&... arguments) {
    if (shape.blocks == 0) return;
    cudaLaunchAttribute cluster = {};
    const cudaLaunchConfig_t config = configure(kernel, shape, stream, cluster);
    check_launch(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), shape);
}

}  // namespace integralrob::cuda
