// Kernels with one bug each, chosen by the argument: an exercise for the sanitizers. `none` has none.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <cstring>
#include <vector>

namespace {

constexpr int kThreads = 32;

template <typename... Parameters, typename... Arguments>
int run(void (*kernel)(Parameters...), unsigned cluster, Arguments... arguments) {
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {cluster, 1, 1};
    cudaLaunchConfig_t config = {};
    config.gridDim = cluster;
    config.blockDim = kThreads;
    config.dynamicSmemBytes = kThreads * sizeof(float);
    config.attrs = &attribute;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, kernel, arguments...) != cudaSuccess;
}

// Neighbours exchange numbers; `offset` is 0, or 1 to go too far.
__global__ void dynamic_shared(float* out, int offset) {
    float* const shared = static_cast<float*>(simt::dynamic_shared_memory());
    shared[threadIdx.x + offset] = static_cast<float>(threadIdx.x);
    __syncthreads();
    out[threadIdx.x] = shared[threadIdx.x ^ 1];
}

__global__ void other_block(float* out, int offset) {
    const auto cluster = cooperative_groups::this_cluster();
    float* const shared = static_cast<float*>(simt::dynamic_shared_memory());
    shared[threadIdx.x] = 1.0f;
    cluster.sync();
    out[threadIdx.x] = cluster.map_shared_rank(shared, cluster.block_rank() ^ 1)[threadIdx.x + offset];
    cluster.sync();
}

__global__ void static_shared(float* out, int offset) {
    __shared__ float shared[kThreads];
    shared[threadIdx.x + offset] = static_cast<float>(threadIdx.x);
    __syncthreads();
    out[threadIdx.x] = shared[threadIdx.x ^ 1];
}

__global__ void global(float* out, const float* in, int offset) {
    __syncthreads();
    out[threadIdx.x] = in[threadIdx.x + offset];
}

__global__ void local(float* out, int offset) {
    float numbers[4];
    float* volatile first = numbers;  // so that the compiler forgets of what size they are
    for (int k = 0; k < 4; ++k) {
        first[k + offset] = out[k];
        __syncthreads();
    }
    out[threadIdx.x] = first[threadIdx.x % 4];
}

__global__ void overflow(int* out, int number) { out[threadIdx.x] = number + static_cast<int>(threadIdx.x); }

__global__ void misaligned(float* out, const float* in, int offset) {
    const float4 four = *reinterpret_cast<const float4*>(in + offset);
    out[threadIdx.x] = four.x + four.w;
}

}  // namespace

int main(int, char** arguments) {
    std::vector<float> out(kThreads), in(kThreads);
    std::vector<int> numbers(kThreads);
    const auto chosen = [&](const char* name) { return std::strcmp(arguments[1], name) == 0; };
    return run(dynamic_shared, 1, out.data(), chosen("dynamic_shared")) |
           run(other_block, 2, out.data(), chosen("other_block")) |
           run(static_shared, 1, out.data(), chosen("static_shared")) |
           run(global, 1, out.data(), in.data(), chosen("global")) |
           run(local, 1, out.data(), chosen("local")) |
           run(overflow, 1, numbers.data(), chosen("overflow") ? INT32_MAX : 0) |
           run(misaligned, 1, out.data(), in.data(), chosen("misaligned"));
}
