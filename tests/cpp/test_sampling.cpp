// The sampling kernels against naive loops: all inner lengths (scalars, runs, wide rows), dense and sparse
// tiles, transposed taps, ranges that split rows, NaN.
#include <limits>

#include "expect.h"
#include "sampling/sampling_kernels.h"

using namespace integralrob;

namespace {

template <typename T>
std::vector<T> random_values(expect::Random& random, int64_t count) {
    return random.numbers<T>(count, [](double x) { return narrow<T>(static_cast<arithmetic_t<T>>(x)); });
}

template <typename T>
double wide(T x) {
    return static_cast<double>(widen(x));
}

enum class Points { sorted, scattered, repeated };

// A random band, a tenth of its weights zero, and what it stands for: a dense matrix [points, nodes].
template <typename A>
struct Band {
    int64_t nodes, points, taps;
    std::vector<int64_t> start;
    std::vector<A> weight;
    std::vector<double> matrix;

    Band(expect::Random& random, int64_t nodes_, int64_t points_, int64_t taps_, Points kind)
        : nodes(nodes_), points(points_), taps(taps_), matrix(points * nodes, 0.0) {
        for (int64_t m = 0; m < points; ++m) {
            const int64_t last = nodes - taps;
            start.push_back(kind == Points::sorted     ? last * m / std::max<int64_t>(1, points - 1)
                            : kind == Points::repeated ? last
                                                       : random.below(last + 1));
            for (int64_t t = 0; t < taps; ++t) {
                weight.push_back(random.below(10) == 0 ? A(0) : static_cast<A>(random.number()));
                matrix[m * nodes + start[m] + t] += weight.back();
            }
        }
    }
    double operator()(int64_t m, int64_t s) const { return matrix[m * nodes + s]; }
    Taps<A> forward() const { return Taps<A>::of_band(start.data(), weight.data(), points, taps); }
    Axis<A> axis(int64_t inner) const { return {nodes, inner, forward()}; }
    Axis<A> transposed(int64_t inner) const { return {points, inner, forward().transposed(nodes)}; }
};

// Half a unit of the storage type, and round-off of sums of up to `terms` numbers of magnitude 1 in the
// arithmetic type.
template <typename T>
double tolerance(double expected, double terms) {
    const double storage = std::is_same_v<T, Half> ? 0x1p-11 : std::is_same_v<T, BFloat16> ? 0x1p-8 : 0.0;
    return storage * (std::fabs(expected) + 0x1p-14) +
           4 * terms * std::numeric_limits<arithmetic_t<T>>::epsilon();
}

template <typename T>
void check_close(const char* what, T actual, double expected, double terms, int64_t inner, int64_t position) {
    CHECK_THAT(std::fabs(wide(actual) - expected) <= tolerance<T>(expected, terms),
               "%s, inner length %lld, element %lld: %.9g, not %.9g", what, (long long)inner,
               (long long)position, wide(actual), expected);
}

// Calls run(begin, end) for ranges of uneven lengths, as threads would.
template <typename Run>
void in_ranges(int64_t rows, const Run& run) {
    for (int64_t begin = 0, length = 1; begin < rows; begin += length, length = length % 11 + 3) {
        run(begin, std::min(begin + length, rows));
    }
}

// [outer, nodes, inner] -> [outer, points, inner] in double, with the matrix (point, node).
template <typename T, typename Matrix>
std::vector<double> sampled(const std::vector<T>& in, int64_t outer, int64_t nodes, int64_t points,
                            int64_t inner, const Matrix& matrix) {
    std::vector<double> out(outer * points * inner, 0.0);
    for (int64_t l = 0; l < outer; ++l) {
        for (int64_t m = 0; m < points; ++m) {
            for (int64_t s = 0; s < nodes; ++s) {
                if (matrix(m, s) == 0) continue;
                for (int64_t r = 0; r < inner; ++r) {
                    out[(l * points + m) * inner + r] += matrix(m, s) * wide(in[(l * nodes + s) * inner + r]);
                }
            }
        }
    }
    return out;
}

template <typename T>
void check_all_close(const char* what, const std::vector<T>& actual, const std::vector<double>& expected,
                     double terms, int64_t inner) {
    for (size_t k = 0; k < expected.size(); ++k) check_close(what, actual[k], expected[k], terms, inner, k);
}

template <typename T, typename Matrix>
void check_sample_1d(const char* what, const std::vector<T>& in, int64_t outer,
                     const Axis<arithmetic_t<T>>& axis, const Matrix& matrix) {
    const int64_t inner = axis.inner, points = axis.points();
    std::vector<T> out(outer * points * inner);
    in_ranges(inner < kWideRow ? outer : outer * points, [&](int64_t begin, int64_t end) {
        INTEGRALROB_ON_ISA(sample_1d<T>, in.data(), axis, out.data(), begin, end);
    });
    check_all_close(what, out, sampled(in, outer, axis.nodes, points, inner, matrix), 40.0, inner);
}

// [nodes0, nodes1, inner] -> [points0, points1, inner]
template <typename T, typename Matrix0, typename Matrix1>
void check_sample_2d(const char* what, const std::vector<T>& in, int64_t nodes0,
                     const Taps<arithmetic_t<T>>& taps0, const Matrix0& matrix0,
                     const Axis<arithmetic_t<T>>& axis1, const Matrix1& matrix1) {
    const int64_t inner = axis1.inner, points0 = taps0.rows(), points1 = axis1.points();
    std::vector<T> out(points0 * points1 * inner);
    in_ranges(points0, [&](int64_t begin, int64_t end) {
        INTEGRALROB_ON_ISA(sample_2d<T>, in.data(), taps0, axis1, out.data(), begin, end);
    });
    const auto half_way = sampled(in, 1, nodes0, points0, axis1.nodes * inner, matrix0);
    check_all_close(what, out, sampled(half_way, points0, axis1.nodes, points1, inner, matrix1), 400.0,
                    inner);
}

template <typename T>
void check_weight_grads(expect::Random& random, int64_t inner, const Band<arithmetic_t<T>>& band0,
                        const Band<arithmetic_t<T>>& band1) {
    using A = arithmetic_t<T>;
    const int64_t nodes0 = band0.nodes, nodes1 = band1.nodes, points0 = band0.points, points1 = band1.points;
    const auto values = random_values<T>(random, nodes0 * nodes1 * inner);
    const auto grad = random_values<T>(random, points0 * points1 * inner);
    const auto value = [&](int64_t s, int64_t t, int64_t r) {
        return wide(values[(s * nodes1 + t) * inner + r]);
    };
    const auto slope = [&](int64_t o, int64_t i, int64_t r) {
        return wide(grad[(o * points1 + i) * inner + r]);
    };
    const double terms = static_cast<double>(points0 * points1 * inner);

    std::vector<A> grad0(points0 * band0.taps);
    const Axis<A> transposed = band1.transposed(inner);
    in_ranges(points0, [&](int64_t begin, int64_t end) {
        INTEGRALROB_ON_ISA(weight0_grad_2d<T>, grad.data(), values.data(), band0.start.data(), band0.taps,
                           transposed, grad0.data(), begin, end);
    });
    for (int64_t k = 0; k < points0 * band0.taps; ++k) {
        const int64_t o = k / band0.taps, node = band0.start[o] + k % band0.taps;
        double expected = 0;
        for (int64_t i = 0; i < points1; ++i) {
            for (int64_t t = 0; t < nodes1; ++t) {
                for (int64_t r = 0; r < inner; ++r)
                    expected += slope(o, i, r) * band1(i, t) * value(node, t, r);
            }
        }
        check_close("weight0_grad_2d", grad0[k], expected, terms, inner, k);
    }

    std::vector<A> grad1(points1 * band1.taps, A(0));
    const Taps<A> taps0 = band0.forward();
    in_ranges(points0, [&](int64_t begin, int64_t end) {
        INTEGRALROB_ON_ISA(weight1_grad_2d<T>, grad.data(), values.data(), taps0, band1.start.data(), points1,
                           band1.taps, nodes1, inner, grad1.data(), begin, end);
    });
    for (int64_t k = 0; k < points1 * band1.taps; ++k) {
        const int64_t i = k / band1.taps, node = band1.start[i] + k % band1.taps;
        double expected = 0;
        for (int64_t o = 0; o < points0; ++o) {
            for (int64_t s = 0; s < nodes0; ++s) {
                for (int64_t r = 0; r < inner; ++r)
                    expected += slope(o, i, r) * band0(o, s) * value(s, node, r);
            }
        }
        check_close("weight1_grad_2d", grad1[k], expected, terms, inner, k);
    }

    // The first axis as the outer one: [nodes0, nodes1, inner] against [nodes0, points1, inner].
    const auto rows = random_values<T>(random, nodes0 * points1 * inner);
    std::vector<A> partial(points1 * band1.taps, A(0));
    in_ranges(nodes0, [&](int64_t begin, int64_t end) {
        INTEGRALROB_ON_ISA(weight_grad_1d<T>, rows.data(), values.data(), band1.start.data(), points1,
                           band1.taps, nodes1, inner, partial.data(), begin, end);
    });
    for (int64_t k = 0; k < points1 * band1.taps; ++k) {
        const int64_t i = k / band1.taps, node = band1.start[i] + k % band1.taps;
        double expected = 0;
        for (int64_t l = 0; l < nodes0; ++l) {
            for (int64_t r = 0; r < inner; ++r) {
                expected += wide(rows[(l * points1 + i) * inner + r]) * value(l, node, r);
            }
        }
        check_close("weight_grad_1d", partial[k], expected, static_cast<double>(nodes0 * inner), inner, k);
    }
}

template <typename T>
void check_type() {
    using A = arithmetic_t<T>;
    struct Shape {
        int64_t nodes0, points0, taps0, nodes1, points1, taps1;
        Points kind;
    };
    const Shape shapes[] = {
        {12, 9, 4, 17, 13, 4, Points::sorted},    {11, 20, 4, 70, 61, 4, Points::scattered},
        {23, 5, 9, 40, 33, 17, Points::sorted},   {5, 6, 4, 6, 40, 4, Points::sorted},
        {6, 4, 3, 200, 16, 2, Points::scattered}, {4, 3, 4, 9, 35, 4, Points::repeated},
        {1, 2, 1, 1, 3, 1, Points::sorted},       {3, 1, 2, 5, 1, 5, Points::sorted},
        {3, 4, 3, 1000, 700, 4, Points::sorted},  {2, 9, 2, 300, 1100, 4, Points::sorted},
    };
    expect::Random random;
    for (const Shape& shape : shapes) {
        const Band<A> band0(random, shape.nodes0, shape.points0, shape.taps0, shape.kind);
        const Band<A> band1(random, shape.nodes1, shape.points1, shape.taps1, shape.kind);
        const auto by_node0 = [&](int64_t s, int64_t o) { return band0(o, s); };
        const auto by_node1 = [&](int64_t t, int64_t i) { return band1(i, t); };
        for (const int64_t inner : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 25, 33, 70}) {
            if (std::max(shape.nodes1, shape.points1) * inner > 6000) break;
            const auto values = random_values<T>(random, shape.nodes0 * shape.nodes1 * inner);
            check_sample_1d("sample_1d", values, shape.nodes0, band1.axis(inner), band1);
            check_sample_2d("sample_2d", values, shape.nodes0, band0.forward(), band0, band1.axis(inner),
                            band1);
            const auto rows = random_values<T>(random, 19 * shape.points1 * inner);
            check_sample_1d("sample_1d, transposed", rows, 19, band1.transposed(inner), by_node1);
            const auto grad = random_values<T>(random, shape.points0 * shape.points1 * inner);
            check_sample_2d("sample_2d, transposed", grad, shape.points0,
                            band0.forward().transposed(shape.nodes0), by_node0, band1.transposed(inner),
                            by_node1);
            if (shape.nodes1 * shape.points1 < 100000) check_weight_grads<T>(random, inner, band0, band1);
        }
    }
}

// Neighbouring points share dense tiles, which hold the same matrix as the taps; scattered points get none.
void check_tiles() {
    expect::Random random;
    const Band<float> band(random, 60, 50, 4, Points::sorted);
    const Tiles<float> tiles(band.forward());
    CHECK(tiles.tile.size() == 4);
    for (int64_t m = 0; m < 50; ++m) {
        const Tile& tile = tiles.tile[m / kTile];
        CHECK(0 < tile.span && tile.first >= 0 && tile.first + tile.span <= 60);
        for (int64_t s = 0; s < 60; ++s) {
            const int64_t j = s - tile.first;
            const bool inside = 0 <= j && j < tile.span;
            CHECK((inside ? tiles.weight[tile.offset + j * kTile + m % kTile] : 0.0f) == band(m, s));
        }
    }
    const Tiles<float> sparse(Band<float>(random, 4000, 50, 4, Points::scattered).forward());
    for (const Tile& tile : sparse.tile) CHECK(tile.span == kSparse);
    CHECK(sparse.tile.size() == 4 && sparse.weight.empty());
    const Tiles<float> none(Taps<float>{{0, 0, 0}, {}, {}});
    CHECK(none.tile.size() == 1 && none.tile[0].span == 0);
}

void check_transposed_taps() {
    expect::Random random;
    const Band<double> band(random, 30, 40, 5, Points::scattered);
    const Taps<double> taps = band.forward().transposed(30);
    CHECK(taps.rows() == 30);
    std::vector<double> matrix(30 * 40, 0.0);
    for (int64_t s = 0; s < 30; ++s) {
        for (int64_t k = taps.offset[s]; k < taps.offset[s + 1]; ++k) {
            matrix[s * 40 + taps.index[k]] += taps.weight[k];
            CHECK(taps.weight[k] != 0);
            CHECK(k == taps.offset[s] || taps.index[k - 1] < taps.index[k]);  // the order of the points
        }
    }
    for (int64_t m = 0; m < 40; ++m) {
        for (int64_t s = 0; s < 30; ++s) CHECK(matrix[s * 40 + m] == band(m, s));
    }
}

// A NaN or infinity reaches the samples that weigh it, and no other.
template <typename T>
void check_nan() {
    using A = arithmetic_t<T>;
    expect::Random random;
    const Band<A> band(random, 30, 40, 4, Points::sorted);
    for (const A poison : {std::numeric_limits<A>::quiet_NaN(), std::numeric_limits<A>::infinity()}) {
        for (const int64_t inner : {1, 2, 9, 20}) {
            for (const int64_t node : {0, 11, 29}) {
                auto values = random_values<T>(random, 30 * 30 * inner);
                values[(node * 30 + node) * inner] = narrow<T>(poison);
                std::vector<T> out(40 * 40 * inner);
                INTEGRALROB_ON_ISA(sample_2d<T>, values.data(), band.forward(), band.axis(inner), out.data(),
                                   0, 40);
                for (int64_t k = 0; k < 40 * 40 * inner; ++k) {
                    const int64_t o = k / inner / 40, i = k / inner % 40, r = k % inner;
                    const bool weighs = r == 0 && band(o, node) != 0 && band(i, node) != 0;
                    CHECK_THAT(std::isfinite(wide(out[k])) != weighs, "inner length %lld, node %lld",
                               (long long)inner, (long long)node);
                }
            }
        }
    }
}

}  // namespace

int main() {
    check_type<float>();
    check_type<double>();
    check_type<Half>();
    check_type<BFloat16>();
    check_tiles();
    check_transposed_taps();
    check_nan<float>();
    check_nan<double>();
    check_nan<Half>();
    check_nan<BFloat16>();
    return expect::summary();
}
