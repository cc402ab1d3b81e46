// Sampling on the CPU. Compiled once per instruction set (see common/isa.h).
//
// Both axes in two stages, row by row: stage 0 adds stretches of T0 rows of control values into a working row
// that stays in cache; stage 1 samples that row along axis 1. Every control value is read about once from
// memory, all loops run along contiguous memory, and nothing of the size of the weight is ever allocated.
#include <algorithm>
#include <type_traits>

#include "common/cpu_vector.h"
#include "sampling/sampling_kernels.h"

namespace integralrob::INTEGRALROB_ISA_NAMESPACE {
namespace {

// Readable beyond the end of a working row: vectors are loaded whole.
constexpr int64_t kSlack = 16;

// The taps of one output.
template <typename A>
struct TapRange {
    const int64_t* index;
    const A* weight;
    int64_t count;

    TapRange(const Taps<A>& taps, int64_t m)
        : index(taps.index.data() + taps.offset[m]),
          weight(taps.weight.data() + taps.offset[m]),
          count(taps.offset[m + 1] - taps.offset[m]) {}

    // The plain cubic kernel away from padding: known at compile time, and one address instead of four.
    INTEGRALROB_INLINE bool plain() const { return count == 4 && index[3] == index[0] + 3; }
};

// out[0 .. Lanes·Count) = Σ_k weight[k] · in[index[k] · stride + 0 .. Lanes·Count)
template <int Lanes, int Count, typename T, typename A>
INTEGRALROB_INLINE void add_taps(const T* in, int64_t stride, const TapRange<A>& taps, A* out) {
    using V = Vector<A, Lanes>;
    V sum[Count];
    for (int c = 0; c < Count; ++c) sum[c] = V::zero();
    const auto add = [&](const T* row, A weight) __attribute__((always_inline)) {
        for (int c = 0; c < Count; ++c) sum[c].add_product(V::load(row + c * Lanes), weight);
    };
    if (taps.plain()) {
        const T* row = in + taps.index[0] * stride;
        for (int k = 0; k < 4; ++k) add(row + k * stride, taps.weight[k]);
    } else {
        for (int64_t k = 0; k < taps.count; ++k) add(in + taps.index[k] * stride, taps.weight[k]);
    }
    for (int c = 0; c < Count; ++c) sum[c].store(out + c * Lanes);
}

// out[0 .. length) = Σ_k weight[k] · in[index[k] · length + 0 .. length)
template <typename T, typename A>
void combine_rows(const T* in, int64_t length, TapRange<A> taps, A* out) {
    constexpr int L = kLanes<A>;
    const auto add = [&]<int Count>(int64_t r) __attribute__((always_inline)) {
        add_taps<L, Count>(in + r, length, taps, out + r);
    };
    int64_t r = 0;
    for (; r + 4 * L <= length; r += 4 * L) add.template operator()<4>(r);
    for (; r + L <= length; r += L) add.template operator()<1>(r);
    if (r == length) return;
    // The last vector overlaps the one before it: the same numbers are written twice.
    if (length >= L) return add.template operator()<1>(length - L);
    for (; r < length; ++r) {
        A sum = 0;
        for (int64_t k = 0; k < taps.count; ++k) {
            sum += taps.weight[k] * static_cast<A>(widen(in[taps.index[k] * length + r]));
        }
        out[r] = sum;
    }
}

template <typename T, typename A>
INTEGRALROB_INLINE void widen_row(const T* in, int64_t length, A* out) {
    for (int64_t r = 0; r < length; ++r) out[r] = widen(in[r]);
}

template <typename T, typename A>
INTEGRALROB_INLINE void narrow_row(const A* in, int64_t length, T* out) {
    for (int64_t r = 0; r < length; ++r) out[r] = narrow<T>(in[r]);
}

template <typename A>
INTEGRALROB_INLINE bool any_nan(const A* x, int64_t length) {
    bool any = false;
    for (int64_t k = 0; k < length; ++k) any |= x[k] != x[k];
    return any;
}

// Inner length 1, tap by tap: outputs [begin, end).
template <typename A>
void sample_scattered(const A* in, const Axis<A>& axis, int64_t begin, int64_t end, A* out) {
    for (int64_t m = begin; m < end; ++m) {
        const TapRange<A> taps(axis.taps, m);
        A sum = 0;
        for (int64_t k = 0; k < taps.count; ++k) sum += taps.weight[k] * in[taps.index[k]];
        out[m] = sum;
    }
}

// Inner length 1, tile by tile: in [nodes] -> out [points], `Rows` rows at once, so that each tile's weights
// are loaded once for all.
template <int Rows, typename A>
void sample_scalars(const A* in, int64_t in_stride, const Axis<A>& axis, A* out, int64_t out_stride) {
    constexpr int L = std::min<int>(kLanes<A>, kTile), Count = kTile / L;
    using V = Vector<A, L>;
    const Tile* tile = axis.tiles.tile.data();
    const int64_t points = axis.points();
    for (int64_t begin = 0; begin < points; begin += kTile, ++tile) {
        const int64_t count = std::min(kTile, points - begin);
        const auto tap_by_tap = [&](int row) {
            sample_scattered(in + row * in_stride, axis, begin, begin + count, out + row * out_stride);
        };
        if (tile->span == kSparse) {
            for (int row = 0; row < Rows; ++row) tap_by_tap(row);
            continue;
        }
        V sum[Rows][Count];
        for (int row = 0; row < Rows; ++row) {
            for (int c = 0; c < Count; ++c) sum[row][c] = V::zero();
        }
        const A* w = axis.tiles.weight.data() + tile->offset;
        const A* from = in + tile->first;
        for (int64_t j = 0; j < tile->span; ++j, w += kTile, ++from) {
            for (int c = 0; c < Count; ++c) {
                const V weights = V::load(w + c * L);
                for (int row = 0; row < Rows; ++row) sum[row][c].add_product(weights, from[row * in_stride]);
            }
        }
        // x - x is NaN where x is not finite: one test for all rows.
        V probe = V::zero();
        for (int row = 0; row < Rows; ++row) {
            for (int c = 0; c < Count; ++c) probe.lanes += sum[row][c].lanes - sum[row][c].lanes;
        }
        A probed[L];
        probe.store(probed);
        const bool finite = !any_nan(probed, L);
        for (int row = 0; row < Rows; ++row) {
            A last[kTile];
            A* const to = count == kTile ? out + row * out_stride + begin : last;
            for (int c = 0; c < Count; ++c) sum[row][c].store(to + c * L);
            if (!finite && any_nan(to, kTile)) {
                tap_by_tap(row);  // maybe from an infinity or NaN that only a neighbour weighs: 0 · inf
            } else if (count < kTile) {
                std::copy(last, last + count, out + row * out_stride + begin);
            }
        }
    }
}

// The four inputs of a plain cubic kernel, kept in registers: neighbouring points share most of them.
template <int Lanes, typename A>
struct Window {
    using V = Vector<A, Lanes>;
    const A* in;
    int64_t stride;
    int64_t start = -1;
    V x0{}, x1{}, x2{}, x3{};

    INTEGRALROB_INLINE V load(int64_t node) const { return V::load(in + node * stride); }

    INTEGRALROB_INLINE void move_to(int64_t to) {
        if (start < 0 || to < start || to > start + 2) {
            x0 = load(to), x1 = load(to + 1), x2 = load(to + 2), x3 = load(to + 3);
        } else if (to == start + 1) {
            x0 = x1, x1 = x2, x2 = x3, x3 = load(to + 3);
        } else if (to == start + 2) {
            x0 = x2, x1 = x3, x2 = load(to + 2), x3 = load(to + 3);
        }
        start = to;
    }

    INTEGRALROB_INLINE V sum(const A* weight) const {
        V result = V::zero();
        result.add_product(x0, weight[0]), result.add_product(x1, weight[1]);
        result.add_product(x2, weight[2]), result.add_product(x3, weight[3]);
        return result;
    }
};

// Inner length R > 1: in [nodes, R] (with kSlack readable behind it) -> out [points, R]. Each output is a
// combination of runs of R numbers, taken a vector at a time. A vector wider than R writes into the run
// behind it, which is written next; the last ones take a detour.
template <int Lanes, typename A>
void sample_runs(const A* in, const Axis<A>& axis, A* out) {
    const int64_t inner = axis.inner, points = axis.points();
    const A* const end = out + points * inner;
    for (int64_t r = 0; r < inner; r += Lanes) {
        // The last vector overlaps the one before it, if there is one.
        const int64_t column = std::max<int64_t>(0, std::min(r, inner - Lanes));
        Window<Lanes, A> window{in + column, inner};
        A* to = out + column;
        for (int64_t m = 0; m < points; ++m, to += inner) {
            const TapRange<A> taps(axis.taps, m);
            A detour[Lanes];
            A* const vector = end - to >= Lanes ? to : detour;
            if (taps.plain()) {
                window.move_to(taps.index[0]);
                window.sum(taps.weight).store(vector);
            } else {
                add_taps<Lanes, 1>(in + column, inner, taps, vector);
            }
            if (vector == detour) std::copy(detour, detour + inner, to);
        }
    }
}

// How many working rows are sampled together.
constexpr int kRows = 8;

// `rows` working rows (in_stride apart, with kSlack readable behind each) -> rows of out, next to each other.
template <typename A>
void sample_rows(const A* in, int64_t in_stride, const Axis<A>& axis, A* out, int64_t rows) {
    constexpr int L = kLanes<A>;
    const int64_t inner = axis.inner, out_stride = axis.points() * inner;
    if (inner == 1 && rows == kRows) return sample_scalars<kRows>(in, in_stride, axis, out, out_stride);
    for (int64_t row = 0; row < rows; ++row, in += in_stride, out += out_stride) {
        if (inner == 1) {
            sample_scalars<1>(in, in_stride, axis, out, out_stride);
        } else if (inner <= 4) {
            sample_runs<std::min(L, 4)>(in, axis, out);
        } else if (inner <= 8) {
            sample_runs<std::min(L, 8)>(in, axis, out);
        } else {
            sample_runs<L>(in, axis, out);
        }
    }
}

// Samples rows [begin, end) of out from working rows [nodes, R] that fill(row, to) provides.
template <typename T, typename Fill>
void sample_filled_rows(const Axis<arithmetic_t<T>>& axis, T* out, int64_t begin, int64_t end,
                        const Fill& fill) {
    using A = arithmetic_t<T>;
    constexpr bool direct = std::is_same_v<T, A>;
    const int64_t block = axis.inner == 1 ? kRows : 1;
    const int64_t in_stride = (axis.nodes * axis.inner + kSlack + 15) / 16 * 16,
                  length = axis.points() * axis.inner;
    const Scratch<A> working(block * in_stride), results(direct ? 0 : block * length);
    // The slack reaches only lanes that are overwritten, but must not be an accidental signalling NaN.
    std::fill(working.data(), working.data() + block * in_stride, A(0));
    for (int64_t row = begin; row < end; row += block) {
        const int64_t rows = std::min(block, end - row);
        for (int64_t b = 0; b < rows; ++b) fill(row + b, working.data() + b * in_stride);
        if constexpr (direct) {
            sample_rows(working.data(), in_stride, axis, out + row * length, rows);
        } else {
            sample_rows(working.data(), in_stride, axis, results.data(), rows);
            narrow_row(results.data(), rows * length, out + row * length);
        }
    }
}

template <typename T, typename A>
INTEGRALROB_INLINE A dot(const T* x, const A* y, int64_t length) {
    constexpr int L = kLanes<A>;
    using V = Vector<A, L>;
    V sum = V::zero();
    int64_t r = 0;
    for (; r + L <= length; r += L) sum.add_product(V::load(x + r), V::load(y + r));
    A total = sum.sum();
    for (; r < length; ++r) total += static_cast<A>(widen(x[r])) * y[r];
    return total;
}

// partial[m, t] += Σ_r grad[m, r] row[start[m] + t, r]
template <typename T, typename A>
void add_products(const T* grad, const A* row, const int64_t* start, int64_t points, int64_t taps,
                  int64_t inner, A* partial) {
    for (int64_t m = 0; m < points; ++m) {
        const A* from = row + start[m] * inner;
        if (inner == 1) {
            const A g = widen(grad[m]);
            for (int64_t t = 0; t < taps; ++t) partial[m * taps + t] += g * from[t];
        } else {
            for (int64_t t = 0; t < taps; ++t)
                partial[m * taps + t] += dot(grad + m * inner, from + t * inner, inner);
        }
    }
}

}  // namespace

template <typename T>
void sample_1d(const T* values, const Axis<arithmetic_t<T>>& axis, T* out, int64_t begin, int64_t end) {
    using A = arithmetic_t<T>;
    const int64_t inner = axis.inner, in_size = axis.nodes * inner;
    if (inner < kWideRow) {
        return sample_filled_rows(axis, out, begin, end,
                                  [&](int64_t l, A* to) { widen_row(values + l * in_size, in_size, to); });
    }
    const int64_t points = axis.points();
    const Scratch<A> result(std::is_same_v<T, A> ? 0 : inner);
    for (int64_t row = begin; row < end; ++row) {
        const T* from = values + row / points * in_size;
        const TapRange<A> taps(axis.taps, row % points);
        if constexpr (std::is_same_v<T, A>) {
            combine_rows(from, inner, taps, out + row * inner);
        } else {
            combine_rows(from, inner, taps, result.data());
            narrow_row(result.data(), inner, out + row * inner);
        }
    }
}

template <typename T>
void sample_2d(const T* values, const Taps<arithmetic_t<T>>& taps0, const Axis<arithmetic_t<T>>& axis1,
               T* out, int64_t begin, int64_t end) {
    using A = arithmetic_t<T>;
    const int64_t length = axis1.nodes * axis1.inner;
    sample_filled_rows(axis1, out, begin, end,
                       [&](int64_t o, A* to) { combine_rows(values, length, TapRange<A>(taps0, o), to); });
}

template <typename T>
void weight_grad_1d(const T* grad, const T* values, const int64_t* start, int64_t points, int64_t taps,
                    int64_t nodes, int64_t inner, arithmetic_t<T>* partial, int64_t begin, int64_t end) {
    using A = arithmetic_t<T>;
    const Scratch<A> wide(std::is_same_v<T, A> ? 0 : nodes * inner);
    for (int64_t l = begin; l < end; ++l) {
        const T* from = values + l * nodes * inner;
        const T* g = grad + l * points * inner;
        if constexpr (std::is_same_v<T, A>) {
            add_products(g, from, start, points, taps, inner, partial);
        } else {
            widen_row(from, nodes * inner, wide.data());
            add_products(g, wide.data(), start, points, taps, inner, partial);
        }
    }
}

template <typename T>
void weight0_grad_2d(const T* grad, const T* values, const int64_t* start0, int64_t taps0,
                     const Axis<arithmetic_t<T>>& axis1_transposed, arithmetic_t<T>* out, int64_t begin,
                     int64_t end) {
    using A = arithmetic_t<T>;
    const int64_t length = axis1_transposed.points() * axis1_transposed.inner;
    const int64_t grad_length = axis1_transposed.nodes * axis1_transposed.inner;
    const Scratch<A> spread(length);
    for (int64_t o = begin; o < end; ++o) {
        sample_filled_rows(axis1_transposed, spread.data(), 0, 1,
                           [&](int64_t, A* to) { widen_row(grad + o * grad_length, grad_length, to); });
        for (int64_t s = 0; s < taps0; ++s) {
            out[o * taps0 + s] = dot(values + (start0[o] + s) * length, spread.data(), length);
        }
    }
}

template <typename T>
void weight1_grad_2d(const T* grad, const T* values, const Taps<arithmetic_t<T>>& taps0,
                     const int64_t* start1, int64_t points1, int64_t taps1, int64_t nodes1, int64_t inner,
                     arithmetic_t<T>* partial, int64_t begin, int64_t end) {
    using A = arithmetic_t<T>;
    const int64_t length = nodes1 * inner;
    const Scratch<A> row(length);
    for (int64_t o = begin; o < end; ++o) {
        combine_rows(values, length, TapRange<A>(taps0, o), row.data());
        add_products(grad + o * points1 * inner, row.data(), start1, points1, taps1, inner, partial);
    }
}

#define INTEGRALROB_INSTANTIATE(T)                                                                          \
    template void sample_1d<T>(const T*, const Axis<arithmetic_t<T>>&, T*, int64_t, int64_t);               \
    template void sample_2d<T>(const T*, const Taps<arithmetic_t<T>>&, const Axis<arithmetic_t<T>>&, T*,    \
                               int64_t, int64_t);                                                           \
    template void weight_grad_1d<T>(const T*, const T*, const int64_t*, int64_t, int64_t, int64_t, int64_t, \
                                    arithmetic_t<T>*, int64_t, int64_t);                                    \
    template void weight0_grad_2d<T>(const T*, const T*, const int64_t*, int64_t,                           \
                                     const Axis<arithmetic_t<T>>&, arithmetic_t<T>*, int64_t, int64_t);     \
    template void weight1_grad_2d<T>(const T*, const T*, const Taps<arithmetic_t<T>>&, const int64_t*,      \
                                     int64_t, int64_t, int64_t, int64_t, arithmetic_t<T>*, int64_t,         \
                                     int64_t);
INTEGRALROB_INSTANTIATE(float)
INTEGRALROB_INSTANTIATE(double)
INTEGRALROB_INSTANTIATE(Half)
INTEGRALROB_INSTANTIATE(BFloat16)

}  // namespace integralrob::INTEGRALROB_ISA_NAMESPACE
