#include "simt/host_api.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <unordered_map>
#include <utility>

namespace simt {
namespace {

constexpr unsigned kThreadsPerBlock = 1024, kThreadsPerMultiprocessor = 2048, kBlocksPerMultiprocessor = 32;
constexpr size_t kSharedPerMultiprocessor = 228 << 10, kReservedPerBlock = 1 << 10;
constexpr size_t kSharedPerBlock = kSharedPerMultiprocessor - kReservedPerBlock;
constexpr size_t kSharedWithoutAsking = 48 << 10;
constexpr unsigned kPortableCluster = 8, kLargestCluster = 16;

struct Attributes {
    size_t dynamic_shared_bytes = kSharedWithoutAsking;
    bool any_cluster = false;
};

std::mutex guard;  // of the attributes
std::unordered_map<const void*, Attributes> attributes_of;

std::atomic<cudaError_t> last_error{cudaSuccess};

cudaError_t remember(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}

Attributes attributes(const void* kernel) {
    const std::lock_guard lock(guard);
    return attributes_of[kernel];
}

bool inside(dim3 shape, uint64_t x, uint64_t y, uint64_t z) {
    return shape.x >= 1 && shape.y >= 1 && shape.z >= 1 && shape.x <= x && shape.y <= y && shape.z <= z;
}

uint64_t volume(dim3 shape) { return uint64_t{shape.x} * shape.y * shape.z; }

cudaError_t check(const cudaLaunchConfig_t& config, dim3 cluster, const Attributes& allowed) {
    const dim3 grid = config.gridDim, block = config.blockDim;
    if (!inside(grid, 0x7fffffff, 65535, 65535) || !inside(block, 1024, 1024, 64) ||
        volume(block) > kThreadsPerBlock) {
        return cudaErrorInvalidConfiguration;
    }
    if (config.dynamicSmemBytes > allowed.dynamic_shared_bytes) return cudaErrorInvalidValue;
    if (!inside(cluster, kLargestCluster, kLargestCluster, kLargestCluster) ||
        volume(cluster) > (allowed.any_cluster ? kLargestCluster : kPortableCluster)) {
        return cudaErrorInvalidClusterSize;
    }
    if (grid.x % cluster.x != 0 || grid.y % cluster.y != 0 || grid.z % cluster.z != 0) {
        return cudaErrorInvalidConfiguration;
    }
    return cudaSuccess;
}

// The cluster of a launch, and whether it is a good one.
cudaError_t examine(const cudaLaunchConfig_t* config, const void* kernel, dim3* cluster) {
    if (config == nullptr) return remember(cudaErrorInvalidValue);
    if (kernel == nullptr) return remember(cudaErrorInvalidDeviceFunction);
    for (unsigned k = 0; k < config->numAttrs; ++k) {
        if (config->attrs[k].id != cudaLaunchAttributeClusterDimension)
            return remember(cudaErrorInvalidValue);
        const auto& shape = config->attrs[k].val.clusterDim;
        *cluster = dim3(shape.x, shape.y, shape.z);
    }
    const cudaError_t error = check(*config, *cluster, attributes(kernel));
    return error == cudaSuccess ? error : remember(error);
}

}  // namespace

// Clusters run on the multiprocessors of a group, of which the emulated GPU has one.
cudaError_t active_clusters(int* clusters, const void* kernel, const cudaLaunchConfig_t* config) {
    constexpr int kMultiprocessorsOfGroup = 16;
    dim3 cluster;
    cudaError_t error = examine(config, kernel, &cluster);
    int blocks = 0;
    if (error == cudaSuccess) {
        error = blocks_per_multiprocessor(&blocks, static_cast<int>(volume(config->blockDim)),
                                          config->dynamicSmemBytes);
    }
    *clusters = blocks * kMultiprocessorsOfGroup / static_cast<int>(volume(cluster));
    return error;
}

cudaError_t launch(const cudaLaunchConfig_t* config, const Kernel& kernel) {
    dim3 cluster;
    const cudaError_t error = examine(config, kernel.address, &cluster);
    if (error != cudaSuccess) return error;
    run_grid(kernel, config->gridDim, config->blockDim, cluster, config->dynamicSmemBytes);
    return cudaSuccess;
}

cudaError_t set_attribute(const void* kernel, cudaFuncAttribute attribute, int value) {
    if (kernel == nullptr) return remember(cudaErrorInvalidDeviceFunction);
    const std::lock_guard lock(guard);
    switch (attribute) {
        case cudaFuncAttributeMaxDynamicSharedMemorySize:
            if (value < 0 || static_cast<size_t>(value) > kSharedPerBlock)
                return remember(cudaErrorInvalidValue);
            attributes_of[kernel].dynamic_shared_bytes = value;
            return cudaSuccess;
        case cudaFuncAttributeNonPortableClusterSizeAllowed:
            attributes_of[kernel].any_cluster = value != 0;
            return cudaSuccess;
        case cudaFuncAttributePreferredSharedMemoryCarveout:
            return value < -1 || value > 100 ? remember(cudaErrorInvalidValue) : cudaSuccess;
    }
    return remember(cudaErrorInvalidValue);
}

cudaError_t attributes(cudaFuncAttributes* attributes, const void* kernel) {
    if (kernel == nullptr) return remember(cudaErrorInvalidDeviceFunction);
    const char* const ptx = std::getenv("INTEGRALROB_SIMT_PTX");
    *attributes = {ptx == nullptr ? 90 : std::atoi(ptx)};
    return cudaSuccess;
}

cudaError_t blocks_per_multiprocessor(int* blocks, int threads, size_t dynamic_shared_bytes) {
    if (threads < 1 || threads > static_cast<int>(kThreadsPerBlock)) return remember(cudaErrorInvalidValue);
    const size_t by_threads = kThreadsPerMultiprocessor / ((threads + 31) / 32 * 32);
    const size_t by_shared = kSharedPerMultiprocessor / (dynamic_shared_bytes + kReservedPerBlock);
    *blocks = static_cast<int>(std::min({size_t{kBlocksPerMultiprocessor}, by_threads, by_shared}));
    return cudaSuccess;
}

}  // namespace simt

using namespace simt;

const char* cudaGetErrorName(cudaError_t error) {
    switch (error) {
        case cudaSuccess:
            return "cudaSuccess";
        case cudaErrorInvalidValue:
            return "cudaErrorInvalidValue";
        case cudaErrorInvalidConfiguration:
            return "cudaErrorInvalidConfiguration";
        case cudaErrorInvalidDeviceFunction:
            return "cudaErrorInvalidDeviceFunction";
        case cudaErrorNoKernelImageForDevice:
            return "cudaErrorNoKernelImageForDevice";
        case cudaErrorInvalidClusterSize:
            return "cudaErrorInvalidClusterSize";
    }
    return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaSuccess:
            return "no error";
        case cudaErrorInvalidValue:
            return "invalid argument";
        case cudaErrorInvalidConfiguration:
            return "invalid configuration argument";
        case cudaErrorInvalidDeviceFunction:
            return "invalid device function";
        case cudaErrorNoKernelImageForDevice:
            return "no kernel image is available for execution on the device";
        case cudaErrorInvalidClusterSize:
            return "cluster misconfiguration";
    }
    return "unrecognized error code";
}

cudaError_t cudaGetLastError() { return last_error.exchange(cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }

cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    const char* const multiprocessors = std::getenv("INTEGRALROB_SIMT_MULTIPROCESSORS");
    switch (attribute) {
        case cudaDevAttrMaxThreadsPerBlock:
            *value = kThreadsPerBlock;
            return cudaSuccess;
        case cudaDevAttrMaxSharedMemoryPerBlock:
            *value = kSharedWithoutAsking;
            return cudaSuccess;
        case cudaDevAttrWarpSize:
            *value = 32;
            return cudaSuccess;
        case cudaDevAttrMultiProcessorCount:
            *value = multiprocessors == nullptr ? 132 : std::atoi(multiprocessors);
            return cudaSuccess;
        case cudaDevAttrMaxThreadsPerMultiProcessor:
            *value = kThreadsPerMultiprocessor;
            return cudaSuccess;
        case cudaDevAttrComputeCapabilityMajor:
            *value = 9;
            return cudaSuccess;
        case cudaDevAttrComputeCapabilityMinor:
            *value = 0;
            return cudaSuccess;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
            *value = kSharedPerMultiprocessor;
            return cudaSuccess;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin:
            *value = kSharedPerBlock;
            return cudaSuccess;
        case cudaDevAttrClusterLaunch:
            *value = 1;
            return cudaSuccess;
    }
    return remember(cudaErrorInvalidValue);
}
