// Sampling on the CPU. Compiled once per instruction set (see common/isa.h).
//
// Both axes in two stages, row by row: stage 0 adds T0 whole rows of control values into a working row of
// S1·R numbers that stays in cache; stage 1 samples that row along axis 1. Every control value is read about
// once from memory, all loops run along contiguous memory, and nothing of the size of the weight is ever
// allocated.
#include <algorithm>
#include <type_traits>

#include "common/cpu_vector.h"
#include "sampling/sampling_kernels.h"

namespace integralrob::INTEGRALROB_ISA_NAMESPACE {
namespace {

// Readable beyond the end of a working row: vectors are loaded whole.
constexpr int64_t kSlack = 16;

// out[r .. r + Lanes·Count) = Σ_k weight[k] · in[index[k] · stride + r ...]
template <int Lanes, int Count, typename T, typename A>
INTEGRALROB_INLINE void add_taps(const T* in, int64_t stride, const int64_t* index, const A* weight,
                                 int64_t taps, A* out) {
    using V = Vector<A, Lanes>;
    V sum[Count];
    for (int c = 0; c < Count; ++c) sum[c] = V::zero();
    const auto add = [&](int64_t k) __attribute__((always_inline)) {
        const T* row = in + index[k] * stride;
        for (int c = 0; c < Count; ++c) sum[c].add_product(V::load(row + c * Lanes), weight[k]);
    };
    if (taps == 4) {  // the plain cubic kernel
        add(0), add(1), add(2), add(3);
    } else {
        for (int64_t k = 0; k < taps; ++k) add(k);
    }
    for (int c = 0; c < Count; ++c) sum[c].store(out + c * Lanes);
}

// out[0 .. length) = Σ_k weight[k] · in[index[k] · length + 0 .. length); length at least one vector.
template <typename T, typename A>
void combine_rows(const T* in, int64_t length, const int64_t* index, const A* weight, int64_t taps, A* out) {
    constexpr int L = kLanes<A>;
    int64_t r = 0;
    for (; r + 4 * L <= length; r += 4 * L) add_taps<L, 4>(in + r, length, index, weight, taps, out + r);
    for (; r + L <= length; r += L) add_taps<L, 1>(in + r, length, index, weight, taps, out + r);
    // The last vector overlaps the one before it: the same numbers are written twice.
    if (r < length) add_taps<L, 1>(in + length - L, length, index, weight, taps, out + length - L);
}

template <typename T, typename A>
INTEGRALROB_INLINE void combine_rows_any(const T* in, int64_t length, const int64_t* index, const A* weight,
                                         int64_t taps, A* out) {
    if (length >= kLanes<A>) return combine_rows(in, length, index, weight, taps, out);
    for (int64_t r = 0; r < length; ++r) {
        A sum = 0;
        for (int64_t k = 0; k < taps; ++k)
            sum += weight[k] * static_cast<A>(widen(in[index[k] * length + r]));
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

// in [nodes] -> outputs [begin, end) of out [points], tap by tap.
template <typename A>
void sample_scattered(const A* in, const Taps<A>& taps, int64_t begin, int64_t end, A* out) {
    for (int64_t m = begin; m < end; ++m) {
        A sum = 0;
        for (int64_t k = taps.offset[m]; k < taps.offset[m + 1]; ++k)
            sum += taps.weight[k] * in[taps.index[k]];
        out[m] = sum;
    }
}

// in [nodes] -> out [points], `Rows` rows at once so that each tile's weights are loaded once for all of
// them.
template <int Rows, typename A>
void sample_scalars(const A* in, int64_t in_stride, const Axis<A>& axis, A* out, int64_t out_stride) {
    constexpr int L = std::min<int>(kLanes<A>, kTile), Count = kTile / L;
    using V = Vector<A, L>;
    const Tile* tile = axis.tiles.tile.data();
    const A* tile_weight = axis.tiles.weight.data();
    const int64_t points = axis.points();
    for (int64_t begin = 0; begin < points; begin += kTile, ++tile) {
        const int64_t count = std::min(kTile, points - begin);
        const auto scattered = [&] {
            for (int row = 0; row < Rows; ++row) {
                sample_scattered(in + row * in_stride, axis.taps, begin, begin + count,
                                 out + row * out_stride);
            }
        };
        if (tile->span == kSparse) {
            scattered();
            continue;
        }
        V sum[Rows][Count];
        for (int row = 0; row < Rows; ++row) {
            for (int c = 0; c < Count; ++c) sum[row][c] = V::zero();
        }
        const A* w = tile_weight + tile->offset;
        const A* from = in + tile->first;
        for (int64_t j = 0; j < tile->span; ++j, w += kTile, ++from) {
            for (int c = 0; c < Count; ++c) {
                const V weights = V::load(w + c * L);
                for (int row = 0; row < Rows; ++row) sum[row][c].add_product(weights, from[row * in_stride]);
            }
        }
        // An infinity or NaN belongs only to the outputs that weigh it, but here all of the tile got 0 · inf
        // = NaN.
        V total = V::zero();
        for (int row = 0; row < Rows; ++row) {
            for (int c = 0; c < Count; ++c) total.lanes += sum[row][c].lanes;
        }
        if (const A any = total.sum(); any != any) {
            scattered();
            continue;
        }
        for (int row = 0; row < Rows; ++row) {
            A last[kTile];
            A* to = count == kTile ? out + row * out_stride + begin : last;
            for (int c = 0; c < Count; ++c) sum[row][c].store(to + c * L);
            if (count < kTile) std::copy(last, last + count, out + row * out_stride + begin);
        }
    }
}

// in [nodes, R] (with kSlack readable behind it) -> out [points, R], 1 < R: each output is a combination of
// runs of R numbers. A vector wider than R writes into the run behind, which is written next; the last runs
// take a detour.
template <int Lanes, typename A>
void sample_runs(const A* in, int64_t inner, const Axis<A>& axis, A* out) {
    const int64_t *offset = axis.taps.offset.data(), *index = axis.taps.index.data();
    const A* weight = axis.taps.weight.data();
    const int64_t points = axis.points();
    for (int64_t m = 0; m < points; ++m) {
        const int64_t taps = offset[m + 1] - offset[m];
        const int64_t* nodes = index + offset[m];
        const A* weights = weight + offset[m];
        A* to = out + m * inner;
        if (inner >= Lanes) {
            int64_t r = 0;
            for (; r + Lanes <= inner; r += Lanes)
                add_taps<Lanes, 1>(in + r, inner, nodes, weights, taps, to + r);
            if (r < inner)
                add_taps<Lanes, 1>(in + inner - Lanes, inner, nodes, weights, taps, to + inner - Lanes);
        } else if (m * inner + Lanes <= points * inner) {
            add_taps<Lanes, 1>(in, inner, nodes, weights, taps, to);
        } else {
            A last[Lanes];
            add_taps<Lanes, 1>(in, inner, nodes, weights, taps, last);
            std::copy(last, last + inner, to);
        }
    }
}

// How many working rows are sampled together.
template <typename A>
constexpr int kRows = 8;

// `rows` working rows (in_stride apart) along axis 1 -> out rows (out_stride apart).
template <typename A>
void sample_rows(const A* in, int64_t in_stride, int64_t inner, const Axis<A>& axis, A* out,
                 int64_t out_stride, int64_t rows) {
    if (inner == 1) {
        if (rows == kRows<A>) return sample_scalars<kRows<A>>(in, in_stride, axis, out, out_stride);
        for (int64_t row = 0; row < rows; ++row) {
            sample_scalars<1>(in + row * in_stride, in_stride, axis, out + row * out_stride, out_stride);
        }
        return;
    }
    constexpr int L = kLanes<A>;
    for (int64_t row = 0; row < rows; ++row) {
        const A* from = in + row * in_stride;
        A* to = out + row * out_stride;
        if (L > 4 && inner <= 4) {
            sample_runs<std::min(L, 4)>(from, inner, axis, to);
        } else if (L > 8 && inner <= 8) {
            sample_runs<std::min(L, 8)>(from, inner, axis, to);
        } else {
            sample_runs<L>(from, inner, axis, to);
        }
    }
}

// Samples blocks of working rows, which `fill(row, to)` provides, into rows [begin, end) of out.
template <typename T, typename Fill>
void sample_filled_rows(int64_t inner, const Axis<arithmetic_t<T>>& axis, T* out, int64_t begin, int64_t end,
                        const Fill& fill) {
    using A = arithmetic_t<T>;
    constexpr bool direct = std::is_same_v<T, A>;
    const int64_t in_stride = (axis.nodes * inner + kSlack + 15) / 16 * 16,
                  out_stride = axis.points() * inner;
    const Scratch<A> rows(kRows<A> * in_stride), results(direct ? 0 : kRows<A> * out_stride);
    // Slack is multiplied by weights of lanes that are overwritten; it must only not be a trap (a signalling
    // value).
    std::fill(rows.data(), rows.data() + kRows<A> * in_stride, A(0));
    for (int64_t row = begin; row < end; row += kRows<A>) {
        const int64_t count = std::min<int64_t>(kRows<A>, end - row);
        for (int64_t b = 0; b < count; ++b) fill(row + b, rows.data() + b * in_stride);
        if constexpr (direct) {
            sample_rows(rows.data(), in_stride, inner, axis, out + row * out_stride, out_stride, count);
        } else {
            sample_rows(rows.data(), in_stride, inner, axis, results.data(), out_stride, count);
            narrow_row(results.data(), count * out_stride, out + row * out_stride);
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
void sample_1d(const T* values, const Axis<arithmetic_t<T>>& axis, int64_t inner, T* out, int64_t begin,
               int64_t end) {
    using A = arithmetic_t<T>;
    const int64_t in_size = axis.nodes * inner;
    if (inner < kWideRow) {
        return sample_filled_rows(inner, axis, out, begin, end,
                                  [&](int64_t l, A* to) { widen_row(values + l * in_size, in_size, to); });
    }
    const int64_t *offset = axis.taps.offset.data(), *index = axis.taps.index.data();
    const A* weight = axis.taps.weight.data();
    const int64_t points = axis.points();
    const Scratch<A> result(std::is_same_v<T, A> ? 0 : inner);
    for (int64_t row = begin; row < end; ++row) {
        const int64_t l = row / points, m = row % points;
        const T* from = values + l * in_size;
        const int64_t taps = offset[m + 1] - offset[m];
        if constexpr (std::is_same_v<T, A>) {
            combine_rows_any(from, inner, index + offset[m], weight + offset[m], taps, out + row * inner);
        } else {
            combine_rows_any(from, inner, index + offset[m], weight + offset[m], taps, result.data());
            narrow_row(result.data(), inner, out + row * inner);
        }
    }
}

template <typename T>
void sample_2d(const T* values, const Axis<arithmetic_t<T>>& axis0, const Axis<arithmetic_t<T>>& axis1,
               int64_t inner, T* out, int64_t begin, int64_t end) {
    using A = arithmetic_t<T>;
    const int64_t *offset = axis0.taps.offset.data(), *index = axis0.taps.index.data();
    const A* weight = axis0.taps.weight.data();
    const int64_t length = axis1.nodes * inner;
    sample_filled_rows(inner, axis1, out, begin, end, [&](int64_t o, A* to) {
        combine_rows_any(values, length, index + offset[o], weight + offset[o], offset[o + 1] - offset[o],
                         to);
    });
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
                     const Axis<arithmetic_t<T>>& axis1_transposed, int64_t inner, arithmetic_t<T>* out,
                     int64_t begin, int64_t end) {
    using A = arithmetic_t<T>;
    const int64_t in_size = axis1_transposed.nodes * inner, length = axis1_transposed.points() * inner;
    const Scratch<A> wide(in_size + kSlack), spread(length);
    std::fill(wide.data() + in_size, wide.data() + in_size + kSlack, A(0));
    for (int64_t o = begin; o < end; ++o) {
        widen_row(grad + o * in_size, in_size, wide.data());
        sample_rows(wide.data(), in_size, inner, axis1_transposed, spread.data(), length, 1);
        for (int64_t s = 0; s < taps0; ++s) {
            out[o * taps0 + s] = dot(values + (start0[o] + s) * length, spread.data(), length);
        }
    }
}

template <typename T>
void weight1_grad_2d(const T* grad, const T* values, const Axis<arithmetic_t<T>>& axis0,
                     const int64_t* start1, int64_t points1, int64_t taps1, int64_t nodes1, int64_t inner,
                     arithmetic_t<T>* partial, int64_t begin, int64_t end) {
    using A = arithmetic_t<T>;
    const int64_t *offset = axis0.taps.offset.data(), *index = axis0.taps.index.data();
    const A* weight = axis0.taps.weight.data();
    const int64_t length = nodes1 * inner;
    const Scratch<A> row(length);
    for (int64_t o = begin; o < end; ++o) {
        combine_rows_any(values, length, index + offset[o], weight + offset[o], offset[o + 1] - offset[o],
                         row.data());
        add_products(grad + o * points1 * inner, row.data(), start1, points1, taps1, inner, partial);
    }
}

#define INTEGRALROB_INSTANTIATE(T)                                                                          \
    template void sample_1d<T>(const T*, const Axis<arithmetic_t<T>>&, int64_t, T*, int64_t, int64_t);      \
    template void sample_2d<T>(const T*, const Axis<arithmetic_t<T>>&, const Axis<arithmetic_t<T>>&,        \
                               int64_t, T*, int64_t, int64_t);                                              \
    template void weight_grad_1d<T>(const T*, const T*, const int64_t*, int64_t, int64_t, int64_t, int64_t, \
                                    arithmetic_t<T>*, int64_t, int64_t);                                    \
    template void weight0_grad_2d<T>(const T*, const T*, const int64_t*, int64_t,                           \
                                     const Axis<arithmetic_t<T>>&, int64_t, arithmetic_t<T>*, int64_t,      \
                                     int64_t);                                                              \
    template void weight1_grad_2d<T>(const T*, const T*, const Axis<arithmetic_t<T>>&, const int64_t*,      \
                                     int64_t, int64_t, int64_t, int64_t, arithmetic_t<T>*, int64_t,         \
                                     int64_t);
INTEGRALROB_INSTANTIATE(float)
INTEGRALROB_INSTANTIATE(double)
INTEGRALROB_INSTANTIATE(Half)
INTEGRALROB_INSTANTIATE(BFloat16)

}  // namespace integralrob::INTEGRALROB_ISA_NAMESPACE
