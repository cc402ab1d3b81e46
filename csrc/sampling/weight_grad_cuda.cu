// Derivatives by the weights of bands: for each tap a dot product, summed in a fixed order.
#include <algorithm>

#include "common/launch.cuh"
#include "sampling/axis.cuh"

namespace integralrob::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
// Taps of a point, and points of axis 0, that a block sums at the same time.
constexpr int kTapsAtOnce = 4;
constexpr int kPointsAtOnce = 4;
// How sums are split must not depend on the GPU, or results would: enough blocks for every one of today's.
constexpr int64_t kWantedBlocks = 1024;
constexpr int64_t kMostParts = 64;

Parts split(int64_t length, int64_t least, int64_t blocks) {
    const int64_t wanted = std::clamp<int64_t>(kWantedBlocks / std::max<int64_t>(1, blocks), 1, kMostParts);
    const int64_t size = std::max({ceil_div(length, wanted), least, int64_t(1)});
    return {std::max<int64_t>(1, ceil_div(length, size)), size};
}

template <typename A>
__device__ A warp_sum(A x) {
    for (int step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
    return x;
}

// grad[.., node k, ..] summed with the weights of the taps, `stride` from node to node. False, and 0, where
// no tap has a weight: what the sum would be multiplied with is then not read.
template <typename T, typename A>
__device__ bool gather(const Axis<A>& axis, const TapRange& taps, const T* grad, int64_t stride, A& sum) {
    bool any = false;
    sum = 0;
    for (int64_t k = taps.begin; k < taps.end; ++k) {
        const A weight = weight_of(axis, k);
        if (weight == A(0)) continue;
        sum += weight * widen(grad[taps.node(k) * stride]);
        any = true;
    }
    return any;
}

template <typename A>
__global__ void __launch_bounds__(kThreads) sum_parts(const A* partial, int64_t parts, int64_t size, A* out) {
    for (int64_t k = int64_t(blockIdx.x) * kThreads + threadIdx.x; k < size;
         k += int64_t(gridDim.x) * kThreads) {
        A sum = 0;
        for (int64_t part = 0; part < parts; ++part) sum += partial[part * size + k];
        out[k] = sum;
    }
}

template <typename A>
void add_parts(Parts parts, int64_t size, const A* partial, A* out, cudaStream_t stream) {
    if (parts.parts == 1) return;
    launch(sum_parts<A>,
           {.blocks = ceil_div<int64_t>(size, kThreads), .threads = kThreads, .purpose = "sum_parts"}, stream,
           partial, parts.parts, size, out);
}

// ------------------------------------------------------------------------------------------------ axis 0 of
// two

template <typename T>
struct Weight0Problem {
    const T *grad, *values;
    Axis<arithmetic_t<T>> axis0, transposed1;
    int64_t inner;
    Parts parts;  // of the columns of values
    arithmetic_t<T>* out;
};

// A block for kPointsAtOnce points o, kTapsAtOnce of their taps s, and one part of the columns c = (j, r):
// each thread pulls grad[o] back to its columns and multiplies it with the rows of values that o touches.
template <typename T>
__global__ void __launch_bounds__(kThreads, 2) weight0_grad_kernel(Weight0Problem<T> p) {
    using A = arithmetic_t<T>;
    __shared__ A warp_sums[kThreads / kWarp][kPointsAtOnce * kTapsAtOnce];
    const int64_t points = p.axis0.outputs, taps = p.axis0.taps;
    const int64_t columns = p.transposed1.outputs * p.inner, grad_columns = p.transposed1.nodes * p.inner;
    const int64_t point_groups = ceil_div<int64_t>(points, kPointsAtOnce);
    const int64_t tap_groups = ceil_div<int64_t>(taps, kTapsAtOnce);
    for (int64_t block = blockIdx.x; block < point_groups * tap_groups * p.parts.parts; block += gridDim.x) {
        const int64_t o = block % point_groups * kPointsAtOnce;
        const int64_t s = block / point_groups % tap_groups * kTapsAtOnce;
        const int64_t part = block / point_groups / tap_groups;

        const T*
            rows[kPointsAtOnce];  // of values; those of points that are not there are read, and forgotten
        const T* grads[kPointsAtOnce];
#pragma unroll
        for (int q = 0; q < kPointsAtOnce; ++q) {
            const int64_t point = o + q < points ? o + q : o;
            rows[q] = p.values + (taps_of(p.axis0, point).first + s) * columns;
            grads[q] = p.grad + point * grad_columns;
        }
        A sum[kPointsAtOnce][kTapsAtOnce] = {};
        const int64_t begin = part * p.parts.size;
        const int64_t end = begin + p.parts.size < columns ? begin + p.parts.size : columns;
        for (int64_t c = begin + threadIdx.x; c < end; c += kThreads) {
            const int64_t r = c % p.inner;
            const TapRange touching = taps_of(p.transposed1, c / p.inner);
#pragma unroll
            for (int q = 0; q < kPointsAtOnce; ++q) {
                A pulled;
                if (!gather(p.transposed1, touching, grads[q] + r, p.inner, pulled)) break;
#pragma unroll
                for (int t = 0; t < kTapsAtOnce; ++t) {
                    if (s + t < taps) sum[q][t] += pulled * widen(rows[q][t * columns + c]);
                }
            }
        }
#pragma unroll
        for (int k = 0; k < kPointsAtOnce * kTapsAtOnce; ++k) {
            const A total = warp_sum(sum[k / kTapsAtOnce][k % kTapsAtOnce]);
            if (threadIdx.x % kWarp == 0) warp_sums[threadIdx.x / kWarp][k] = total;
        }
        __syncthreads();
        const int q = threadIdx.x / kTapsAtOnce, t = threadIdx.x % kTapsAtOnce;
        if (q < kPointsAtOnce && o + q < points && s + t < taps) {
            A total = taps_of(p.axis0, o + q).valid ? A(0) : not_a_number<A>();
            for (int warp = 0; warp < kThreads / kWarp; ++warp) total += warp_sums[warp][threadIdx.x];
            p.out[(part * points + o + q) * taps + s + t] = total;
        }
        __syncthreads();
    }
}

// --------------------------------------------------------------------------------------- the sampled axis of
// one, axis 1

// How a block is laid over points and the inner dimension: `columns` threads side by side, `across` of them
// for each point, the rest of the block below, for other rows.
struct Layout {
    int columns, across, points;
};

Layout layout_for(int64_t inner) {
    int columns = kWarp;
    while (columns < kThreads && columns < inner) columns *= 2;
    const int across = static_cast<int>(std::clamp<int64_t>(inner, 1, columns));
    return {columns, across, columns / across};
}

template <typename T>
struct Weight1Problem {
    const T *grad, *values;
    Axis<arithmetic_t<T>> transposed0, axis1;
    int64_t inner;
    Layout layout;
    Parts parts;  // of the rows of values
    arithmetic_t<T>* out;
};

// A block for layout.points points i, kTapsAtOnce of their taps t, and one part of the rows of values: each
// thread pulls grad back to its rows and multiplies it with the values that i touches.
template <typename T>
__global__ void __launch_bounds__(kThreads, 2) weight1_grad_kernel(Weight1Problem<T> p) {
    using A = arithmetic_t<T>;
    __shared__ A sums[kTapsAtOnce][kThreads];
    const int64_t points = p.axis1.outputs, taps = p.axis1.taps;
    const int64_t point_groups = ceil_div<int64_t>(points, p.layout.points);
    const int64_t tap_groups = ceil_div<int64_t>(taps, kTapsAtOnce);
    const int x = threadIdx.x % p.layout.columns, y = threadIdx.x / p.layout.columns;
    const int below = kThreads / p.layout.columns;
    const int across = p.layout.across, own_point = x / across;
    for (int64_t block = blockIdx.x; block < point_groups * tap_groups * p.parts.parts; block += gridDim.x) {
        const int64_t i0 = block % point_groups * p.layout.points;
        const int64_t t0 = block / point_groups % tap_groups * kTapsAtOnce;
        const int64_t part = block / point_groups / tap_groups;

        A sum[kTapsAtOnce] = {};
        const int64_t i = i0 + own_point;
        if (own_point < p.layout.points && i < points) {
            const int64_t begin = part * p.parts.size;
            const int64_t end =
                begin + p.parts.size < p.transposed0.outputs ? begin + p.parts.size : p.transposed0.outputs;
            const T* values = p.values + (taps_of(p.axis1, i).first + t0) * p.inner;
            const T* grad = p.grad + i * p.inner;
            for (int64_t s = begin + y; s < end; s += below) {
                const TapRange touching = taps_of(p.transposed0, s);
                for (int64_t r = x % across; r < p.inner; r += across) {
                    A pulled;
                    if (!gather(p.transposed0, touching, grad + r, points * p.inner, pulled)) break;
#pragma unroll
                    for (int t = 0; t < kTapsAtOnce; ++t) {
                        if (t0 + t < taps) {
                            sum[t] += pulled * widen(values[(s * p.axis1.nodes + t) * p.inner + r]);
                        }
                    }
                }
            }
        }
#pragma unroll
        for (int t = 0; t < kTapsAtOnce; ++t) sums[t][threadIdx.x] = sum[t];
        __syncthreads();
        // A warp for each point and tap: its threads lie side by side, and below each other.
        for (int k = threadIdx.x / kWarp; k < p.layout.points * kTapsAtOnce; k += kThreads / kWarp) {
            const int point = k / kTapsAtOnce, t = k % kTapsAtOnce;
            A total = 0;
            for (int n = threadIdx.x % kWarp; n < across * below; n += kWarp) {
                total += sums[t][n / across * p.layout.columns + point * across + n % across];
            }
            total = warp_sum(total);
            if (threadIdx.x % kWarp == 0 && i0 + point < points && t0 + t < taps) {
                p.out[(part * points + i0 + point) * taps + t0 + t] =
                    taps_of(p.axis1, i0 + point).valid ? total : not_a_number<A>();
            }
        }
        __syncthreads();
    }
}

}  // namespace

Parts weight0_grad_parts(int64_t outputs0, int64_t taps0, int64_t nodes1, int64_t inner) {
    return split(nodes1 * inner, 4 * kThreads,
                 ceil_div<int64_t>(outputs0, kPointsAtOnce) * ceil_div<int64_t>(taps0, kTapsAtOnce));
}

Parts weight1_grad_parts(int64_t nodes0, int64_t outputs1, int64_t taps1, int64_t inner) {
    const Layout layout = layout_for(inner);
    return split(nodes0, 8 * kThreads / layout.columns,
                 ceil_div<int64_t>(outputs1, layout.points) * ceil_div<int64_t>(taps1, kTapsAtOnce));
}

template <typename T>
void weight0_grad_2d(const T* grad, const T* values, const Axis<arithmetic_t<T>>& axis0,
                     const Axis<arithmetic_t<T>>& transposed1, int64_t inner, Parts parts,
                     arithmetic_t<T>* partial, arithmetic_t<T>* out, cudaStream_t stream) {
    const Weight0Problem<T> problem = {
        grad, values, axis0, transposed1, inner, parts, parts.parts == 1 ? out : partial};
    const int64_t blocks = ceil_div<int64_t>(axis0.outputs, kPointsAtOnce) *
                           ceil_div<int64_t>(axis0.taps, kTapsAtOnce) * parts.parts;
    launch(weight0_grad_kernel<T>, {.blocks = blocks, .threads = kThreads, .purpose = "weight0_grad"}, stream,
           problem);
    add_parts(parts, axis0.outputs * axis0.taps, partial, out, stream);
}

template <typename T>
void weight1_grad(const T* grad, const T* values, const Axis<arithmetic_t<T>>& transposed0,
                  const Axis<arithmetic_t<T>>& axis1, int64_t inner, Parts parts, arithmetic_t<T>* partial,
                  arithmetic_t<T>* out, cudaStream_t stream) {
    const Weight1Problem<T> problem = {
        grad, values, transposed0, axis1, inner, layout_for(inner), parts, parts.parts == 1 ? out : partial};
    const int64_t blocks = ceil_div<int64_t>(axis1.outputs, problem.layout.points) *
                           ceil_div<int64_t>(axis1.taps, kTapsAtOnce) * parts.parts;
    launch(weight1_grad_kernel<T>, {.blocks = blocks, .threads = kThreads, .purpose = "weight1_grad"}, stream,
           problem);
    add_parts(parts, axis1.outputs * axis1.taps, partial, out, stream);
}

#define INTEGRALROB_INSTANTIATE(T)                                                                \
    template void weight0_grad_2d(const T*, const T*, const Axis<arithmetic_t<T>>&,               \
                                  const Axis<arithmetic_t<T>>&, int64_t, Parts, arithmetic_t<T>*, \
                                  arithmetic_t<T>*, cudaStream_t);                                \
    template void weight1_grad(const T*, const T*, const Axis<arithmetic_t<T>>&,                  \
                               const Axis<arithmetic_t<T>>&, int64_t, Parts, arithmetic_t<T>*,    \
                               arithmetic_t<T>*, cudaStream_t);
INTEGRALROB_INSTANTIATE(float)
INTEGRALROB_INSTANTIATE(double)
INTEGRALROB_INSTANTIATE(Half)
INTEGRALROB_INSTANTIATE(BFloat16)

}  // namespace integralrob::cuda
