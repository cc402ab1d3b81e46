// Sampling on a GPU: which kernel, and in which pieces.
#include <algorithm>

#include "sampling/sample_rows.cuh"
#include "sampling/sample_tiles.cuh"
#include "sampling/sampling_cuda.h"

namespace integralrob::cuda {
namespace {

// From this inner length on, samples of one axis are sums of whole rows.
constexpr int64_t kWideRow = 32;

template <typename T>
void sample_wide(const T* values, const Axis<arithmetic_t<T>>& axis, int64_t outer, int64_t inner, T* out,
                 cudaStream_t stream) {
    const bool vectors = inner % kLanes<T> == 0 && aligned16(values, out);
    const int64_t lanes = vectors ? kLanes<T> : 1, pieces = inner / lanes;
    // Long marches share more rows, short ones fill the GPU.
    const int64_t threads = kRowsWaves * multiprocessors() * kRowsResident;
    const int64_t marches = ceil_div(threads, std::max<int64_t>(1, outer * pieces));
    const int64_t chunk = std::clamp<int64_t>(ceil_div(axis.outputs, marches), kRowsLeast, kRowsMost);
    const RowsProblem<T> problem = {
        values, out, axis, outer, inner, lanes, pieces, chunk, ceil_div(axis.outputs, chunk)};
    const int64_t blocks = ceil_div<int64_t>(outer * problem.chunks * pieces, kRowsThreads);
    // A window for the taps of an output and as many rows again, where there is room.
    const auto kernel = axis.taps <= 4 ? sample_rows<T, kRowsThreads, kRowsWindow4Taps>
                                       : sample_rows<T, kRowsThreads, kRowsWindow>;
    launch(kernel, {.blocks = blocks, .threads = kRowsThreads, .purpose = "sample_rows"}, stream, problem);
}

template <typename T, int kSlots, int kTaps>
void launch_tiles(TilesProblem<T> problem, cudaStream_t stream) {
    constexpr int kThreads = kTileThreads<T>;
    using Memory = typename Tile<T, kThreads, kSlots, kTaps>::Memory;
    constexpr int64_t kSpan = kThreads * kLanes<T>;
    const Axis<arithmetic_t<T>>& axis = problem.axis1;
    if (problem.axis0.outputs == 0 || axis.outputs == 0 || problem.inner == 0) return;

    problem.vectors = axis.nodes * problem.inner % kLanes<T> == 0 && aligned16(problem.values);
    // As many points as evenly spread ones have room for, when their taps reach over the tile's edge.
    const int64_t nodes = (kSpan - kLanes<T>) / problem.inner - axis.taps - 1;
    int64_t points = std::max<int64_t>(1, nodes * axis.outputs / std::max<int64_t>(1, axis.nodes));
    points = std::min(points, std::max<int64_t>(1, kSpan / problem.inner));
    if constexpr (kTaps == 0) {
        constexpr int64_t kMostTaps = Points<T, kThreads, kLanes<T>, 0>::kMostTaps;
        points = std::clamp<int64_t>(kMostTaps / std::max<int64_t>(1, axis.taps), 1, points);
    }
    problem.across = ceil_div(axis.outputs, points);
    problem.points = ceil_div(axis.outputs, problem.across);
    problem.across = ceil_div(axis.outputs, problem.points);
    // Tall tiles share more rows, low ones fill the GPU.
    const int64_t tiles = kTileWaves * multiprocessors() * kTileResident<T> / kThreads;
    const int64_t down = std::max<int64_t>(1, tiles / problem.across);
    problem.chunk = std::clamp<int64_t>(ceil_div(problem.axis0.outputs, down), kTileRowsLeast, kTileRowsMost);

    launch(sample_tiles<T, kThreads, kSlots, kTaps>,
           {.blocks = ceil_div(problem.axis0.outputs, problem.chunk) * problem.across,
            .threads = kThreads,
            .shared_bytes = sizeof(Memory),
            .purpose = "sample_tiles"},
           stream, problem);
}

}  // namespace

template <typename T>
void sample_1d(const T* values, const Axis<arithmetic_t<T>>& axis, int64_t outer, int64_t inner, T* out,
               cudaStream_t stream) {
    if (inner >= kWideRow) return sample_wide(values, axis, outer, inner, out, stream);
    sample_2d(values, identity<arithmetic_t<T>>(outer), axis, inner, out, stream);
}

template <typename T>
void sample_2d(const T* values, const Axis<arithmetic_t<T>>& axis0, const Axis<arithmetic_t<T>>& axis1,
               int64_t inner, T* out, cudaStream_t stream) {
    const TilesProblem<T> problem = {values, out, axis0, axis1, inner, 0, 0, 0, false};
    if (axis0.taps > 8) return launch_tiles<T, 0, 0>(problem, stream);
    if (axis0.taps > 4) return launch_tiles<T, kTileSlots8Taps, 0>(problem, stream);
    if (axis1.offset != nullptr || axis1.taps != 4) {
        return launch_tiles<T, kTileSlots4Taps, 0>(problem, stream);
    }
    launch_tiles<T, kTileSlots4Taps, 4>(problem, stream);
}

#define INTEGRALROB_INSTANTIATE(T)                                                                         \
    template void sample_1d(const T*, const Axis<arithmetic_t<T>>&, int64_t, int64_t, T*, cudaStream_t);   \
    template void sample_2d(const T*, const Axis<arithmetic_t<T>>&, const Axis<arithmetic_t<T>>&, int64_t, \
                            T*, cudaStream_t);
INTEGRALROB_INSTANTIATE(float)
INTEGRALROB_INSTANTIATE(double)
INTEGRALROB_INSTANTIATE(Half)
INTEGRALROB_INSTANTIATE(BFloat16)

}  // namespace integralrob::cuda
