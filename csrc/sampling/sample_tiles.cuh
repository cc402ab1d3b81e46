// Two sampled axes, or one with a narrow inner dimension: samples are made tile by tile, through shared
// memory.
#pragma once

#include "common/launch.cuh"
#include "common/tuning.h"
#include "sampling/columns.cuh"
#include "sampling/tile_points.cuh"

namespace integralrob::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

static_assert(kTileRowsMost <= kWarp);  // a lane plans a row

template <typename T>
struct TilesProblem {
    const T* values;  // [nodes0, nodes1, inner]
    T* out;           // [outputs0, outputs1, inner]
    Axis<arithmetic_t<T>> axis0, axis1;
    int64_t inner;
    int64_t chunk;           // rows of the result in a tile, at most kTileRowsMost
    int64_t points, across;  // points of axis 1 in a tile; tiles beside each other
    bool vectors;            // rows of values are aligned for vectors
};

// One tile: `chunk` rows and `points` points of the result. Each row o is made in two steps: every thread
// sums its columns of the rows of values,
//   line[j, r] = Σ_s weight0[o, s] values[start0[o] + s, j, r],
// into shared memory, and after a barrier samples them,
//   out[o, i, r] = Σ_t weight1[i, t] line[start1[i] + t, r].
//
// The rows of values pass through a ring of kSlots slots in registers: half of them hold the taps of a row of
// the result, the other half the rows to come, which are on their way. kSlots = 0: rows with more taps, read
// from memory (the caches) for each row of the result. kTaps: taps of each point of axis 1, 0 for any number.
template <typename T, int kThreads, int kSlots, int kTaps>
class Tile {
    using A = arithmetic_t<T>;
    using TilePoints = Points<T, kThreads, kLanes<T>, kTaps>;
    static constexpr int kSpan = kThreads * kLanes<T>;  // columns of values in a line
    static_assert(kThreads % kWarp == 0 && kSlots % 2 == 0);
    static constexpr int kRowTaps = kSlots / 2, kAhead = kSlots - kRowTaps;

  public:
    struct Memory {
        alignas(kVectorBytes) A line[2][kSpan];  // two, so that one barrier a row is enough
        // The rows of the result, if they can be made as the rows of values go by; `origin` is the first of
        // these.
        alignas(kVectorBytes) A row_weight[kTileRowsMost][kSlots == 0 ? 1 : kRowTaps];  // last tap first
        int row_last[kTileRowsMost];                                                    // row of the last tap
        int64_t origin;
        int rows;
        bool in_order;
        int64_t low[kThreads / kWarp], high[kThreads / kWarp];
        typename TilePoints::Memory points;
    };

    __device__ Tile(const TilesProblem<T>& problem, Memory& memory, int64_t tile)
        : p(problem),
          shared(memory),
          row_begin(tile / problem.across * problem.chunk),
          rows(static_cast<int>(at_most(problem.chunk, problem.axis0.outputs - row_begin))),
          point_begin(tile % problem.across * problem.points) {}

    // Points whose columns do not fit into a line together are halved, twice at most.
    __device__ void run() {
        if constexpr (kSlots > 0) plan_rows();
        const int64_t end = point_begin + at_most(p.points, p.axis1.outputs - point_begin);
        for (; point_begin < end; point_begin += points) {
            points = end - point_begin;
            bool fits = find_columns();
            while (!fits && 4 * points > p.points + 3) {
                points = (points + 1) / 2;
                fits = find_columns();
            }
            if (fits) {
                sample_lines();
            } else {
                sum_directly();
            }
        }
    }

  private:
    __device__ static int64_t at_most(int64_t limit, int64_t x) { return x < limit ? x : limit; }

    // A lane of the first warp for each row. The ring needs taps without gaps, and last taps that ascend.
    __device__ void plan_rows() {
        if (threadIdx.x >= kWarp) return;
        const int n = threadIdx.x;
        TapRange taps = {0, 0, 0, nullptr, true};
        if (n < rows) taps = taps_of(p.axis0, row_begin + n);
        const bool any = taps.count() > 0;
        bool fits = taps.valid && taps.count() <= kRowTaps && taps.consecutive();
        int64_t origin = any ? taps.first : INT64_MAX, last = any ? taps.last() : -1, latest = last;
        for (int step = 1; step < kWarp; step *= 2) {
            const int64_t other = __shfl_xor_sync(kAllLanes, origin, step);
            const int64_t before = __shfl_up_sync(kAllLanes, latest, step);
            origin = other < origin ? other : origin;
            latest = n >= step && before > latest ? before : latest;
        }
        if (origin == INT64_MAX) origin = 0;
        fits = fits && (!any || last == latest) && latest - origin < INT32_MAX / 2;
        const bool in_order = __all_sync(kAllLanes, fits);
        const int64_t end = __shfl_sync(kAllLanes, latest, kWarp - 1) + 1;
        if (n == 0) {
            shared.in_order = in_order;
            shared.origin = origin;
            shared.rows = in_order && end > 0 ? static_cast<int>(end - origin) : 0;
        }
        if (!in_order || n >= rows) return;
        shared.row_last[n] = latest < 0 ? 0 : static_cast<int>(latest - origin);
        for (int k = 0; k < kRowTaps; ++k) {
            shared.row_weight[n][k] = k < taps.count() ? weight_of(p.axis0, taps.end - 1 - k) : A(0);
        }
    }

    // Sets the columns of the values that the points read; false if they are too many, or a point skips
    // nodes.
    __device__ bool find_columns() {
        bool fits = points * p.inner <= kSpan;
        int64_t low = INT64_MAX, high = -1;
        for (int64_t i = point_begin + threadIdx.x; i < point_begin + points; i += kThreads) {
            const TapRange taps = taps_of(p.axis1, i);
            if (taps.count() == 0) continue;
            low = at_most(low, taps.first);
            high = taps.last() > high ? taps.last() : high;
            fits = fits && taps.consecutive();
        }
        block_range(low, high);
        first_column = high < 0 ? 0 : low * p.inner;
        first_column -= first_column % kLanes<T>;
        const int64_t columns = high < 0 ? 0 : (high + 1) * p.inner - first_column;
        width = static_cast<int>(at_most(kSpan, columns));
        if constexpr (kTaps == 0) {
            const int64_t taps =
                taps_of(p.axis1, point_begin + points - 1).end - taps_of(p.axis1, point_begin).begin;
            fits = fits && taps <= TilePoints::kMostTaps;
        }
        return __syncthreads_and(fits && columns <= kSpan);
    }

    // The least `low` and the greatest `high` of all threads.
    __device__ void block_range(int64_t& low, int64_t& high) {
        const auto include = [&](int64_t other_low, int64_t other_high) {
            low = other_low < low ? other_low : low;
            high = other_high > high ? other_high : high;
        };
        for (int step = kWarp / 2; step > 0; step /= 2) {
            include(__shfl_xor_sync(kAllLanes, low, step), __shfl_xor_sync(kAllLanes, high, step));
        }
        if (threadIdx.x % kWarp == 0) {
            shared.low[threadIdx.x / kWarp] = low;
            shared.high[threadIdx.x / kWarp] = high;
        }
        __syncthreads();
        for (int warp = 0; warp < kThreads / kWarp; ++warp) include(shared.low[warp], shared.high[warp]);
    }

    __device__ Columns<T> own_columns() const {
        const int first = p.vectors ? threadIdx.x * kLanes<T> : threadIdx.x;
        const int left = width > first ? width - first : 0;
        const int singles = ceil_div(left, kThreads);
        return {p.values + first_column + first, p.axis1.nodes * p.inner, p.vectors ? 0 : kThreads,
                p.vectors && left > 0 ? kLanes<T> : singles};
    }

    __device__ void sample_lines() {
        const PointRange<A> range = {p.axis1, point_begin, static_cast<int>(points),
                                     static_cast<int>(p.inner), first_column};
        const TilePoints own(range, shared.points);
        const Columns<T> columns = own_columns();
        if constexpr (kSlots > 0) {
            if (shared.in_order) return pass_rows(columns, own);
        }
        for (int n = 0; n < rows; ++n) {
            RowSum<T> sum;
            sum.add(p.axis0, taps_of(p.axis0, row_begin + n), columns);
            finish_row(n, sum, own);
        }
    }

    // Row j of values (from `origin` on) is in slot j % kSlots, from kAhead rows before it is needed.
    __device__ void pass_rows(Columns<T> columns, const TilePoints& own) {
        columns.first += shared.origin * columns.pitch;
        const int end = shared.rows;
        Packed<T> slot[kSlots];
        int n = 0;
        for (int j0 = 0; n < rows; j0 += kSlots) {
            const int needed = shared.row_last[n] - (kRowTaps - 1);
            if (j0 == 0 || needed >= j0 + kSlots) {  // the start, or a gap
                j0 = needed <= 0 ? 0 : needed / kSlots * kSlots;
#pragma unroll
                for (int k = 0; k < kAhead; ++k) {
                    if (j0 + k < end) slot[k] = columns.load(j0 + k);
                }
            }
#pragma unroll
            for (int k = 0; k < kSlots; ++k) {
                const int j = j0 + k;
                if (j + kAhead < end) slot[(k + kAhead) % kSlots] = columns.load(j + kAhead);
                for (; n < rows && shared.row_last[n] == j; ++n) {
                    RowSum<T> sum;
#pragma unroll
                    for (int s = kRowTaps - 1; s >= 0; --s) {
                        sum.add(shared.row_weight[n][s], slot[(k + kSlots - s) % kSlots]);
                    }
                    finish_row(n, sum, own);
                }
            }
        }
    }

    __device__ void finish_row(int n, const RowSum<T>& sum, const TilePoints& own) {
        A* line = shared.line[n % 2];
        if (p.vectors) {
#pragma unroll
            for (int lane = 0; lane < kLanes<T>; lane += kLanes<A>) {
                Vector<A> part;
#pragma unroll
                for (int k = 0; k < kLanes<A>; ++k) part.lane[k] = sum.lane[lane + k];
                store(line + threadIdx.x * kLanes<T> + lane, part);
            }
        } else {
#pragma unroll
            for (int lane = 0; lane < kLanes<T>; ++lane) line[threadIdx.x + lane * kThreads] = sum.lane[lane];
        }
        __syncthreads();
        own.sample(line, p.out + ((row_begin + n) * p.axis1.outputs + point_begin) * p.inner);
    }

    // Any taps, straight from the values, added in the same order: correct, and slower by far.
    __device__ void sum_directly() const {
        const int64_t pitch = p.axis1.nodes * p.inner;
        for (int64_t n = row_begin; n < row_begin + rows; ++n) {
            const TapRange taps0 = taps_of(p.axis0, n);
            T* to = p.out + (n * p.axis1.outputs + point_begin) * p.inner;
            for (int64_t c = threadIdx.x; c < points * p.inner; c += kThreads) {
                const TapRange taps1 = taps_of(p.axis1, point_begin + c / p.inner);
                A sum = taps1.valid ? A(0) : not_a_number<A>();
                for (int64_t k1 = taps1.begin; k1 < taps1.end; ++k1) {
                    const A weight1 = weight_of(p.axis1, k1);
                    if (weight1 == A(0)) continue;
                    const T* column = p.values + taps1.node(k1) * p.inner + c % p.inner;
                    A line = taps0.valid ? A(0) : not_a_number<A>();
                    for (int64_t k0 = taps0.begin; k0 < taps0.end; ++k0) {
                        const A weight0 = weight_of(p.axis0, k0);
                        if (weight0 != A(0)) line += weight0 * widen(column[taps0.node(k0) * pitch]);
                    }
                    sum += weight1 * line;
                }
                to[c] = narrow<T>(sum);
            }
        }
    }

    const TilesProblem<T>& p;
    Memory& shared;
    const int64_t row_begin;
    const int rows;
    int64_t point_begin, points = 0;
    int64_t first_column = 0;  // of the values, in a line
    int width = 0;             // columns in a line
};

template <typename T, int kThreads, int kSlots, int kTaps>
__global__ void __launch_bounds__(kThreads, kTileResident<T> / kThreads)
    sample_tiles(__grid_constant__ const TilesProblem<T> p) {
    using Block = Tile<T, kThreads, kSlots, kTaps>;
    const int64_t tiles = ceil_div(p.axis0.outputs, p.chunk) * p.across;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        Block(p, *dynamic_shared<typename Block::Memory>(), tile).run();
    }
}

}  // namespace integralrob::cuda
