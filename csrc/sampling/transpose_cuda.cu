// The transpose of a band: for each node, the points that touch it. One launch, no atomics, no waiting.
#include <algorithm>

#include "common/launch.cuh"
#include "sampling/axis.cuh"

namespace integralrob::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

template <typename A>
__device__ int64_t start_of(const Axis<A>& band, int64_t point) {
    return taps_of(band, point).first;
}

// The first point whose start is at least `node`, of points in ascending order.
template <typename A>
__device__ int64_t lower_bound(const Axis<A>& band, int64_t node) {
    int64_t low = 0, high = band.outputs;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (start_of(band, middle) < node) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

// One warp for each node s: offset[s] = Σ_m clamp(s - start[m], 0, T), the number of taps on nodes before s;
// then the points with start[m] <= s < start[m] + T in their order. Ascending starts, the usual case, need a
// look at few points, others one at all.
template <typename A>
__global__ void __launch_bounds__(kThreads)
    transpose_kernel(Axis<A> band, int64_t* offset, int64_t* index, A* weight) {
    const int lane = threadIdx.x % kWarp;
    bool ascending = true;
    for (int64_t m = threadIdx.x; m + 1 < band.outputs; m += kThreads) {
        ascending = ascending && start_of(band, m) <= start_of(band, m + 1);
    }
    ascending = __syncthreads_and(ascending);

    const int64_t warps = int64_t(gridDim.x) * (kThreads / kWarp);
    for (int64_t s = int64_t(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp; s <= band.nodes;
         s += warps) {
        const int64_t begin = ascending ? lower_bound(band, s - band.taps + 1) : 0;
        const int64_t end = ascending ? lower_bound(band, s + 1) : band.outputs;
        int64_t before = 0;
        for (int64_t m = begin + lane; m < end; m += kWarp) {
            const int64_t ahead = s - start_of(band, m);
            before += ahead < 0 ? 0 : ahead > band.taps ? band.taps : ahead;
        }
        for (int step = kWarp / 2; step > 0; step /= 2) before += __shfl_xor_sync(kAllLanes, before, step);
        int64_t slot = begin * band.taps + before;
        if (lane == 0) offset[s] = slot;
        if (s == band.nodes) continue;

        for (int64_t m0 = begin; m0 < end; m0 += kWarp) {
            const int64_t m = m0 + lane;
            TapRange taps{};
            int64_t tap = -1;
            if (m < end) {
                taps = taps_of(band, m);
                tap = s - taps.first;
            }
            const bool touches = tap >= 0 && tap < band.taps;
            const unsigned touching = __ballot_sync(kAllLanes, touches);
            if (touches) {
                const int64_t k = slot + __popc(touching & ((1u << lane) - 1));
                index[k] = m;
                weight[k] = taps.valid ? band.weight[taps.begin + tap] : not_a_number<A>();
            }
            slot += __popc(touching);
        }
    }
}

}  // namespace

template <typename A>
Axis<A> transpose(const Axis<A>& band, int64_t* offset, int64_t* index, A* weight, cudaStream_t stream) {
    constexpr int64_t kMaxBlocks = 1024;  // each looks at all points first
    const int64_t blocks = std::min(ceil_div<int64_t>(band.nodes + 1, kThreads / kWarp), kMaxBlocks);
    launch(transpose_kernel<A>, {.blocks = blocks, .threads = kThreads, .purpose = "transpose"}, stream, band,
           offset, index, weight);
    const int64_t taps = ceil_div(band.outputs * band.taps, std::max<int64_t>(1, band.nodes));
    return {band.nodes, band.outputs, taps, index, weight, offset};
}

template Axis<float> transpose(const Axis<float>&, int64_t*, int64_t*, float*, cudaStream_t);
template Axis<double> transpose(const Axis<double>&, int64_t*, int64_t*, double*, cudaStream_t);

}  // namespace integralrob::cuda
