// One sampled axis with a wide inner dimension: samples are weighted sums of rows.
#pragma once

#include "common/tuning.h"
#include "sampling/columns.cuh"

namespace integralrob::cuda {

// Rows [base, base + kRows) of a thread's columns, in registers. Moving on by fewer than kRows rows loads
// only the new ones. A window with room for more rows than a sum needs holds the next ones already: loads
// take long, and many must be on their way at a time.
template <typename T, int kRows>
class RowWindow {
    static_assert((kRows & (kRows - 1)) == 0);

  public:
    Packed<T> row[kRows];

    // There are rows 0 to rows - 1.
    __device__ void move_to(int64_t first, int64_t rows, const Columns<T>& columns) {
        const int64_t delta = first - base_;
        if (delta == 0) return;
        int kept = 0;
        if (delta > 0 && delta < kRows) {
            kept = kRows - static_cast<int>(delta);
            shift<kRows / 2>(delta);
        }
#pragma unroll
        for (int k = 0; k < kRows; ++k) {
            if (k >= kept && first + k < rows) row[k] = columns.load(first + k);
        }
        base_ = first;
    }

  private:
    // By powers of two: indices that the compiler knows keep the rows in registers.
    template <int kStep>
    __device__ void shift(int64_t delta) {
        if constexpr (kStep > 0) {
            if (delta & kStep) {
#pragma unroll
                for (int k = 0; k + kStep < kRows; ++k) row[k] = row[k + kStep];
            }
            shift<kStep / 2>(delta);
        }
    }

    int64_t base_ = INT64_MIN / 2;
};

template <typename T>
struct RowsProblem {
    const T* values;  // [outer, nodes, inner]
    T* out;           // [outer, outputs, inner]
    Axis<arithmetic_t<T>> axis;
    int64_t outer, inner;
    int64_t lanes, pieces;  // columns of a thread; threads for a row
    int64_t chunk, chunks;  // outputs of a thread; threads for an axis
};

// Thread (l, c, v): outputs [c · chunk, (c + 1) · chunk) of the columns from v · lanes, with a window over
// the rows of values[l].
template <typename T, int kThreads, int kRows>
__global__ void __launch_bounds__(kThreads, kRowsResident / kThreads) sample_rows(RowsProblem<T> p) {
    const int64_t threads = p.outer * p.chunks * p.pieces;
    for (int64_t thread = int64_t(blockIdx.x) * kThreads + threadIdx.x; thread < threads;
         thread += int64_t(gridDim.x) * kThreads) {
        const int64_t column = thread % p.pieces * p.lanes, part = thread / p.pieces;
        const int64_t l = part / p.chunks, begin = part % p.chunks * p.chunk;
        const int64_t end = begin + p.chunk < p.axis.outputs ? begin + p.chunk : p.axis.outputs;
        const bool vectors = p.lanes == kLanes<T>;
        const Columns<T> columns = {p.values + l * p.axis.nodes * p.inner + column, p.inner, vectors ? 0 : 1,
                                    vectors ? kLanes<T> : 1};
        T* to = p.out + (l * p.axis.outputs + begin) * p.inner + column;

        RowWindow<T, kRows> window;
        TapRange taps;
        bool in_window;
        const auto fetch = [&](int64_t m) {
            taps = taps_of(p.axis, m);
            in_window = taps.valid && taps.count() <= kRows && taps.consecutive();
            if (in_window && taps.count() > 0) window.move_to(taps.first, p.axis.nodes, columns);
        };
        fetch(begin);
        for (int64_t m = begin; m < end; ++m, to += p.inner) {
            RowSum<T> sum;
            if (in_window) {
#pragma unroll
                for (int s = 0; s < kRows; ++s) {
                    if (s < taps.count()) sum.add(p.axis.weight[taps.begin + s], window.row[s]);
                }
            } else {
                sum.add(p.axis, taps, columns);
            }
            if (m + 1 < end) fetch(m + 1);
            if (vectors) {
                Vector<T> result;
#pragma unroll
                for (int lane = 0; lane < kLanes<T>; ++lane) result.lane[lane] = narrow<T>(sum.lane[lane]);
                store(to, result);
            } else {
                *to = narrow<T>(sum.lane[0]);
            }
        }
    }
}

}  // namespace integralrob::cuda
