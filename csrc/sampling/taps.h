// Bands in the two forms that the CPU kernels read. A band's transpose has the same forms, so that an adjoint
// is a sampling too: it gathers, for each node, the points that touch it, in a fixed order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace integralrob {

// Row-compressed: output m = Σ_{k = offset[m]}^{offset[m+1]-1} weight[k] · input[index[k]]. Weights that are
// zero are left out.
template <typename A>
struct Taps {
    std::vector<int64_t> offset, index;
    std::vector<A> weight;

    int64_t rows() const { return static_cast<int64_t>(offset.size()) - 1; }

    // start [points], weight [points, taps]
    static Taps of_band(const int64_t* start, const A* weight, int64_t points, int64_t taps) {
        Taps result;
        result.offset.reserve(points + 1);
        result.offset.push_back(0);
        result.index.reserve(points * taps);
        result.weight.reserve(points * taps);
        for (int64_t m = 0; m < points; ++m) {
            for (int64_t t = 0; t < taps; ++t) {
                if (weight[m * taps + t] == A(0)) continue;
                result.index.push_back(start[m] + t);
                result.weight.push_back(weight[m * taps + t]);
            }
            result.offset.push_back(static_cast<int64_t>(result.index.size()));
        }
        return result;
    }

    // For each of `size` nodes the points that touch it, in the order of the points: a counting sort.
    Taps transposed(int64_t size) const {
        Taps result;
        result.offset.assign(size + 1, 0);
        for (const int64_t node : index) ++result.offset[node + 1];
        for (int64_t s = 0; s < size; ++s) result.offset[s + 1] += result.offset[s];
        std::vector<int64_t> next(result.offset.begin(), result.offset.end() - 1);
        result.index.resize(index.size());
        result.weight.resize(index.size());
        for (int64_t m = 0; m < rows(); ++m) {
            for (int64_t k = offset[m]; k < offset[m + 1]; ++k) {
                const int64_t slot = next[index[k]]++;
                result.index[slot] = m;
                result.weight[slot] = weight[k];
            }
        }
        return result;
    }
};

// Dense tiles of kTile consecutive outputs over the contiguous inputs that they touch, for rows without inner
// dimension (R = 1): output [tile · kTile + lane] = Σ_{j < span} weight[j · kTile + lane] · input[first + j]:
// whole vectors, no gathers.
constexpr int64_t kTile = 16;

struct Tile {
    int64_t first;   // first input
    int64_t span;    // number of inputs; kSparse if a dense tile would be wasteful (scattered points)
    int64_t offset;  // of its weights
};
constexpr int64_t kSparse = -1;

template <typename A>
struct Tiles {
    std::vector<Tile> tile;
    std::vector<A> weight;

    Tiles() = default;
    explicit Tiles(const Taps<A>& taps) {
        for (int64_t begin = 0; begin < taps.rows(); begin += kTile) {
            const int64_t end = std::min(begin + kTile, taps.rows());
            int64_t first = INT64_MAX, last = -1;
            for (int64_t k = taps.offset[begin]; k < taps.offset[end]; ++k) {
                first = std::min(first, taps.index[k]);
                last = std::max(last, taps.index[k]);
            }
            const int64_t used = taps.offset[end] - taps.offset[begin];
            const int64_t offset = static_cast<int64_t>(weight.size());
            // One vector multiply-add per input and tile, against one scalar one per tap.
            if (used == 0 || last - first + 1 > used) {
                tile.push_back({0, used == 0 ? 0 : kSparse, offset});
                continue;
            }
            tile.push_back({first, last - first + 1, offset});
            weight.resize(offset + (last - first + 1) * kTile, A(0));
            for (int64_t m = begin; m < end; ++m) {
                for (int64_t k = taps.offset[m]; k < taps.offset[m + 1]; ++k) {
                    weight[offset + (taps.index[k] - first) * kTile + (m - begin)] += taps.weight[k];
                }
            }
        }
    }
};

}  // namespace integralrob
