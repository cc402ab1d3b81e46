// The points of a tile on axis 1, and how they sample a line.
#pragma once

#include "sampling/columns.cuh"

namespace integralrob::cuda {

// Points [begin, begin + count) of an axis, whose taps lie on the columns from `first_column` on of a line.
template <typename A>
struct PointRange {
    const Axis<A>& axis;
    int64_t begin;
    int count, inner;
    int64_t first_column;

    // Where the taps of column (i, r) of the result begin in the line.
    __device__ int column_of(const TapRange& taps) const {
        return taps.count() == 0 ? 0 : static_cast<int>(taps.first * inner - first_column);
    }
};

// Goes through the columns c = (i, r) of a row of the result that belong to this thread.
template <int kThreads>
struct ColumnWalk {
    int c, i, r, inner, points_on, inner_on;

    __device__ explicit ColumnWalk(int inner_)
        : c(threadIdx.x),
          i(c / inner_),
          r(c % inner_),
          inner(inner_),
          points_on(kThreads / inner_),
          inner_on(kThreads % inner_) {}

    __device__ void next() {
        c += kThreads;
        i += points_on;
        r += inner_on;
        if (r >= inner) {
            r -= inner;
            ++i;
        }
    }
};

// Points with kTaps taps each: those of a thread's kColumns columns stay in registers.
template <typename T, int kThreads, int kColumns, int kTaps>
class Points {
    using A = arithmetic_t<T>;

  public:
    struct Memory {};

    __device__ Points(const PointRange<A>& points, Memory&)
        : columns_(points.count * points.inner), inner_(points.inner) {
        ColumnWalk<kThreads> column(inner_);
#pragma unroll
        for (int k = 0; k < kColumns; ++k, column.next()) {
            at_[k] = 0;
            if (column.c >= columns_) continue;
            const TapRange taps = taps_of(points.axis, points.begin + column.i);
            at_[k] = points.column_of(taps) + column.r;
#pragma unroll
            for (int t = 0; t < kTaps; ++t) {
                weight_[k][t] = taps.valid ? points.axis.weight[taps.begin + t] : not_a_number<A>();
            }
        }
    }

    // to[i, r] = Σ_t weight[i, t] line[first[i] + t, r]
    __device__ void sample(const A* line, T* to) const {
#pragma unroll
        for (int k = 0; k < kColumns; ++k) {
            const int c = threadIdx.x + k * kThreads;
            if (c >= columns_) break;
            A sum = 0;
#pragma unroll
            for (int t = 0; t < kTaps; ++t) {
                if (weight_[k][t] != A(0)) sum += weight_[k][t] * line[at_[k] + t * inner_];
            }
            to[c] = narrow<T>(sum);
        }
    }

  private:
    int columns_, inner_;
    A weight_[kColumns][kTaps];
    int at_[kColumns];
};

// Points with any number of taps, kept in shared memory.
template <typename T, int kThreads, int kColumns>
class Points<T, kThreads, kColumns, 0> {
    using A = arithmetic_t<T>;

  public:
    static constexpr int64_t kMostTaps = 4 * kThreads * kColumns;

    struct Memory {
        A weight[kMostTaps];
        int begin[kThreads * kColumns + 1];
        int column[kThreads *
                   kColumns];  // of the first tap in the line, negative if the start is out of range
    };

    __device__ Points(const PointRange<A>& points, Memory& memory)
        : columns_(points.count * points.inner), inner_(points.inner), memory_(memory) {
        const Axis<A>& axis = points.axis;
        const int64_t first = taps_of(axis, points.begin).begin;
        const int taps = static_cast<int>(taps_of(axis, points.begin + points.count - 1).end - first);
        for (int k = threadIdx.x; k < taps; k += kThreads) memory.weight[k] = weight_of(axis, first + k);
        for (int i = threadIdx.x; i < points.count; i += kThreads) {
            const TapRange range = taps_of(axis, points.begin + i);
            memory.begin[i] = static_cast<int>(range.begin - first);
            memory.column[i] = range.valid ? points.column_of(range) : -1;
        }
        if (threadIdx.x == 0) memory.begin[points.count] = taps;
    }

    __device__ void sample(const A* line, T* to) const {
        for (ColumnWalk<kThreads> column(inner_); column.c < columns_; column.next()) {
            const int first = memory_.column[column.i], end = memory_.begin[column.i + 1];
            A sum = first < 0 ? not_a_number<A>() : A(0);
            const A* from = line + (first < 0 ? 0 : first) + column.r;
            for (int k = memory_.begin[column.i]; k < end; ++k, from += inner_) {
                if (memory_.weight[k] != A(0)) sum += memory_.weight[k] * *from;
            }
            to[column.c] = narrow<T>(sum);
        }
    }

  private:
    int columns_, inner_;
    const Memory& memory_;
};

}  // namespace integralrob::cuda
