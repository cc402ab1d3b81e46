// The sampling kernels for CUDA, emulated, against plain loops over dense matrices in float64; and the same
// bits however the GPU schedules, whatever its size, and wherever the arrays lie.
#include <array>
#include <cstdlib>
#include <limits>
#include <string>

#include "expect.h"
#include "limited_launch.h"
//
#include "sampling/sampling_cuda.cu"

using namespace integralrob;

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

template <typename T>
double wide(T x) {
    return static_cast<double>(widen(x));
}

template <typename T>
std::vector<T> random_values(expect::Random& random, int64_t count) {
    return random.numbers<T>(count, [](double x) { return narrow<T>(static_cast<arithmetic_t<T>>(x)); });
}

// For messages.
std::string current_case;

// The least k below `count` for which right(k) is false, or -1.
template <typename Right>
int64_t first_wrong(int64_t count, const Right& right) {
    for (int64_t k = 0; k < count; ++k) {
        if (!right(k)) return k;
    }
    return -1;
}

template <typename T>
bool same_bits(const T& x, const T& y) {
    return std::memcmp(&x, &y, sizeof(T)) == 0;
}

// ---------------------------------------------------------------------------------------------------- memory

// What no result depends on.
struct Conditions {
    uint64_t seed;
    const char* multiprocessors;
    int64_t most_blocks;
    int offset;  // elements from an address that vectors can be loaded from
};
constexpr Conditions kConditions[] = {{0, "132", INT64_MAX, 0}, {1, "1", INT64_MAX, 1}, {2, "7", 3, 0}};

void apply(const Conditions& conditions) {
    simt::set_seed(conditions.seed);
    setenv("INTEGRALROB_SIMT_MULTIPROCESSORS", conditions.multiprocessors, 1);
    cuda::most_blocks = conditions.most_blocks;
}

// A copy that ends where its memory ends, so that AddressSanitizer sees reads beyond it.
template <typename T>
class Input {
  public:
    Input(const std::vector<T>& values, int offset) : memory_(offset), offset_(offset) {
        memory_.reserve(values.size() + offset);
        memory_.insert(memory_.end(), values.begin(), values.end());
    }
    const T* data() const { return memory_.data() + offset_; }

  private:
    std::vector<T> memory_;
    int offset_;
};

// A result with guard zones on both sides, all of it filled with a pattern that no result has.
template <typename T>
class Output {
  public:
    Output(int64_t count, int offset) : begin_(kGuard + offset), memory_(count + 2 * begin_, pattern()) {}
    T* data() { return memory_.data() + begin_; }

    std::vector<T> written(const char* what) const {
        const int64_t size = static_cast<int64_t>(memory_.size()), end = size - begin_;
        const int64_t k = first_wrong(
            size, [&](int64_t m) { return same_bits(memory_[m], pattern()) != (m >= begin_ && m < end); });
        CHECK_THAT(k < 0, "%s of %s: element %lld of %lld", what, current_case.c_str(),
                   (long long)(k - begin_), (long long)(end - begin_));
        return {memory_.begin() + begin_, memory_.begin() + end};
    }

  private:
    static constexpr int64_t kGuard = 64;
    int64_t begin_;
    std::vector<T> memory_;

    static T pattern() {
        T x;
        std::memset(&x, 0x7f, sizeof(T));
        return x;
    }
};

// What run(out, offset) writes, which are the same bits under all conditions.
template <typename T, typename Run>
std::vector<T> result_of(const char* what, int64_t count, const Run& run) {
    std::vector<T> first;
    for (const Conditions& conditions : kConditions) {
        apply(conditions);
        Output<T> out(count, conditions.offset);
        run(out.data(), conditions.offset);
        const std::vector<T> result = out.written(what);
        if (&conditions == kConditions) first = result;
        const int64_t k = first_wrong(count, [&](int64_t m) { return same_bits(result[m], first[m]); });
        CHECK_THAT(k < 0, "%s of %s, %s multiprocessors: element %lld is %.9g, not %.9g", what,
                   current_case.c_str(), conditions.multiprocessors, (long long)k, wide(result[k]),
                   wide(first[k]));
    }
    return first;
}

// ----------------------------------------------------------------------------------------------------- bands

enum class Starts { spread, scattered, equal, clustered, sawtooth, crowded, invalid };
constexpr Starts kStarts[] = {Starts::spread,   Starts::scattered, Starts::equal,  Starts::clustered,
                              Starts::sawtooth, Starts::crowded,   Starts::invalid};

int64_t start_for(Starts starts, int64_t m, int64_t points, int64_t last, expect::Random& random) {
    const int64_t even = last * m / std::max<int64_t>(1, points - 1);
    switch (starts) {
        case Starts::spread:
            return even;
        case Starts::scattered:
            return random.below(last + 1);
        case Starts::equal:
            return last / 2;
        case Starts::clustered:  // ascending, with a jump over most nodes
            return m < points * 5 / 8 ? even / 8 : last - (last - even) / 8;
        case Starts::sawtooth:
            return last * (m % 50) / 49;
        case Starts::crowded:  // most nodes without points
            return even / 16;
        case Starts::invalid:
            switch (random.below(12)) {
                case 0:
                    return -1;
                case 1:
                    return last + 1;
                case 2:
                    return INT64_MIN;
                case 3:
                    return INT64_MAX;
                default:
                    return even;
            }
    }
    return 0;
}

struct Shape {
    int64_t nodes, points, taps;
    Starts starts;
};

std::string text(const Shape& shape) {
    return std::to_string(shape.nodes) + " nodes, " + std::to_string(shape.points) + " points, " +
           std::to_string(shape.taps) + " taps, starts " + std::to_string(static_cast<int>(shape.starts));
}

// A band, a part of its weights zero, and the matrix [points, nodes] that it stands for. A start out of range
// is one at 0 with weights that are not numbers.
template <typename A>
struct Band {
    int64_t nodes, points, taps;
    std::vector<int64_t> start;  // as given
    std::vector<A> weight;
    std::vector<double> matrix;

    Band(expect::Random& random, const Shape& shape)
        : nodes(shape.nodes), points(shape.points), taps(shape.taps), matrix(points * nodes, 0.0) {
        for (int64_t m = 0; m < points; ++m) {
            start.push_back(start_for(shape.starts, m, points, nodes - taps, random));
            for (int64_t t = 0; t < taps; ++t) {
                weight.push_back(random.below(4) == 0 ? A(0) : static_cast<A>(random.number()));
                matrix[m * nodes + first(m) + t] = valid(m) ? wide(weight.back()) : kNan;
            }
        }
    }
    bool valid(int64_t m) const { return 0 <= start[m] && start[m] <= nodes - taps; }
    int64_t first(int64_t m) const { return valid(m) ? start[m] : 0; }
    // Of each node: whether a point gives it a weight.
    std::vector<bool> touched() const {
        std::vector<bool> result(nodes, false);
        for (int64_t k = 0; k < points * nodes; ++k) {
            if (matrix[k] != 0) result[k % nodes] = true;
        }
        return result;
    }
    // Of point m at node s; and of node s at point m.
    auto forward() const {
        return [this](int64_t m, int64_t s) { return matrix[m * nodes + s]; };
    }
    auto backward() const {
        return [this](int64_t s, int64_t m) { return matrix[m * nodes + s]; };
    }
};

// A band as kernels take it, and its transpose with the memory of its tables.
template <typename A>
class DeviceBand {
  public:
    explicit DeviceBand(const Band<A>& band)
        : start_(band.start, 0),
          weight_(band.weight, 0),
          offset_(band.nodes + 1, 0),
          index_(band.points * band.taps, 0),
          tap_weight_(band.points * band.taps, 0),
          axis{band.points, band.nodes, band.taps, start_.data(), weight_.data()},
          unweighted{band.points, band.nodes, band.taps, start_.data(), nullptr},
          transposed(cuda::transpose(axis, offset_.data(), index_.data(), tap_weight_.data(), nullptr)) {}

    std::vector<int64_t> offset() const { return offset_.written("offset of the transpose"); }
    std::vector<int64_t> index() const { return index_.written("index of the transpose"); }
    std::vector<A> tap_weight() const { return tap_weight_.written("weight of the transpose"); }

  private:
    Input<int64_t> start_;
    Input<A> weight_;
    Output<int64_t> offset_, index_;
    Output<A> tap_weight_;

  public:
    const cuda::Axis<A> axis, unweighted, transposed;
};

template <typename A>
void check_transpose(expect::Random& random, const Shape& shape) {
    current_case = text(shape);
    const Band<A> band(random, shape);
    std::vector<int64_t> offset, index;
    std::vector<A> weight;
    for (int64_t s = 0; s < band.nodes; ++s) {
        offset.push_back(static_cast<int64_t>(index.size()));
        for (int64_t m = 0; m < band.points; ++m) {
            const int64_t t = s - band.first(m);
            if (t < 0 || t >= band.taps) continue;
            index.push_back(m);
            weight.push_back(band.valid(m) ? band.weight[m * band.taps + t] : static_cast<A>(kNan));
        }
    }
    offset.push_back(static_cast<int64_t>(index.size()));

    for (const Conditions& conditions : kConditions) {
        apply(conditions);
        const DeviceBand<A> device(band);
        const cuda::Axis<A>& axis = device.transposed;
        CHECK(axis.outputs == band.nodes && axis.nodes == band.points);
        CHECK(axis.taps * band.nodes >= band.points * band.taps);
        CHECK(axis.taps * band.nodes < band.points * band.taps + std::max<int64_t>(1, band.nodes));
        CHECK(device.offset() == offset);
        CHECK(device.index() == index);
        const std::vector<A> actual = device.tap_weight();
        const int64_t k = first_wrong(weight.size(), [&](int64_t m) {
            return actual[m] == weight[m] || (std::isnan(actual[m]) && std::isnan(weight[m]));
        });
        CHECK_THAT(k < 0, "transpose of %s: tap %lld", current_case.c_str(), (long long)k);
    }
}

// ------------------------------------------------------------------------------------------------ references

// Sums, and those of the absolute values of their terms.
struct Sums {
    std::vector<double> sum, magnitude;

    explicit Sums(int64_t count) : sum(count, 0.0), magnitude(count, 0.0) {}
    template <typename T>
    explicit Sums(const std::vector<T>& values) {
        for (const T x : values) {
            sum.push_back(wide(x));
            magnitude.push_back(std::fabs(wide(x)));
        }
    }
    void add(int64_t k, double weight, const Sums& values, int64_t from) {
        sum[k] += weight * values.sum[from];
        magnitude[k] += std::fabs(weight) * values.magnitude[from];
    }
    void add_product(int64_t k, const Sums& x, int64_t from_x, const Sums& y, int64_t from_y) {
        sum[k] += x.sum[from_x] * y.sum[from_y];
        magnitude[k] += x.magnitude[from_x] * y.magnitude[from_y];
    }
};

// [outer, nodes, inner] -> [outer, outputs, inner] with matrix(output, node). A weight of zero adds nothing,
// be the value infinite.
template <typename Matrix>
Sums sampled(const Sums& in, int64_t outer, int64_t nodes, int64_t outputs, int64_t inner,
             const Matrix& matrix) {
    Sums out(outer * outputs * inner);
    for (int64_t m = 0; m < outputs; ++m) {
        for (int64_t s = 0; s < nodes; ++s) {
            const double weight = matrix(m, s);
            if (weight == 0) continue;
            for (int64_t l = 0; l < outer; ++l) {
                for (int64_t r = 0; r < inner; ++r) {
                    out.add((l * outputs + m) * inner + r, weight, in, (l * nodes + s) * inner + r);
                }
            }
        }
    }
    return out;
}

// Round-off of sums, and half a unit of the storage type. Infinite sums are exact.
template <typename T>
void check_close(const char* what, const std::vector<T>& actual, const Sums& expected) {
    const double storage = std::is_same_v<T, Half> ? 0x1p-11 : std::is_same_v<T, BFloat16> ? 0x1p-8 : 0.0;
    const int64_t k = first_wrong(actual.size(), [&](int64_t m) {
        const double x = wide(actual[m]), y = expected.sum[m];
        const double bound = storage * (std::fabs(y) + 0x1p-14) +
                             4 * std::numeric_limits<arithmetic_t<T>>::epsilon() * expected.magnitude[m];
        return std::isnan(y) ? std::isnan(x) : x == y || std::fabs(x - y) <= bound;
    });
    CHECK_THAT(k < 0, "%s of %s: element %lld is %.9g, not %.9g", what, current_case.c_str(), (long long)k,
               wide(actual[k]), expected.sum[k]);
}

// ---------------------------------------------------------------------------------------------------- checks

// Infinities and NaN here and there.
template <typename T>
void poison(expect::Random& random, std::vector<T>& values) {
    if (values.empty()) return;
    for (const double x : {kNan, HUGE_VAL, kNan, -HUGE_VAL}) {
        values[random.below(values.size())] = narrow<T>(static_cast<arithmetic_t<T>>(x));
    }
}

// One axis of values [outer, nodes, inner].
struct Case1d {
    int64_t outer;
    Shape axis;
    int64_t inner;
    bool poisoned = false;
};

template <typename T>
class Check1d {
    using A = arithmetic_t<T>;

  public:
    Check1d(expect::Random& random, const Case1d& c)
        : outer_(c.outer),
          inner_(c.inner),
          band_(random, c.axis),
          device_(band_),
          values_(random_values<T>(random, outer_ * band_.nodes * inner_)),
          grad_(random_values<T>(random, outer_ * band_.points * inner_)) {
        current_case =
            "[" + std::to_string(outer_) + ", (" + text(c.axis) + "), " + std::to_string(inner_) + "]";
        if (c.poisoned) {
            poison(random, values_);
            poison(random, grad_);
        }
    }

    void samples() const {
        check("sample_1d", values_, device_.axis, band_.forward());
        check("sample_1d, transposed", grad_, device_.transposed, band_.backward());
    }

    void weight_grad() const {
        const int64_t points = band_.points, nodes = band_.nodes, taps = band_.taps;
        const std::vector<A> out = result_of<A>("weight_grad", points * taps, [&](A* to, int offset) {
            const Input<T> grad(grad_, offset), values(values_, offset);
            const cuda::Parts parts = cuda::weight1_grad_parts(outer_, points, taps, inner_);
            Output<A> partial(parts.parts > 1 ? parts.parts * points * taps : 0, 0);
            cuda::weight1_grad<T>(grad.data(), values.data(), cuda::identity<A>(outer_), device_.unweighted,
                                  inner_, parts, partial.data(), to, nullptr);
            partial.written("partial sums of weight_grad");
        });
        const Sums values(values_), grad(grad_);
        Sums expected(points * taps);
        for (int64_t k = 0; k < points * taps; ++k) {
            const int64_t m = k / taps, s = band_.first(m) + k % taps;
            for (int64_t l = 0; l < outer_; ++l) {
                for (int64_t r = 0; r < inner_; ++r) {
                    expected.add_product(k, grad, (l * points + m) * inner_ + r, values,
                                         (l * nodes + s) * inner_ + r);
                }
            }
            if (!band_.valid(m)) expected.sum[k] = kNan;
        }
        check_close("weight_grad", out, expected);
    }

  private:
    int64_t outer_, inner_;
    Band<A> band_;
    DeviceBand<A> device_;
    std::vector<T> values_, grad_;

    template <typename Matrix>
    void check(const char* what, const std::vector<T>& in, const cuda::Axis<A>& axis,
               const Matrix& matrix) const {
        const std::vector<T> out = result_of<T>(what, outer_ * axis.outputs * inner_, [&](T* to, int offset) {
            const Input<T> from(in, offset);
            cuda::sample_1d<T>(from.data(), axis, outer_, inner_, to, nullptr);
        });
        check_close(what, out, sampled(Sums(in), outer_, axis.nodes, axis.outputs, inner_, matrix));
    }
};

// Both axes of values [nodes0, nodes1, inner].
struct Case2d {
    Shape axis0, axis1;
    int64_t inner;
    bool poisoned = false;
};

template <typename T>
class Check2d {
    using A = arithmetic_t<T>;

  public:
    Check2d(expect::Random& random, const Case2d& c)
        : band0_(random, c.axis0),
          band1_(random, c.axis1),
          device0_(band0_),
          device1_(band1_),
          inner_(c.inner),
          values_(random_values<T>(random, band0_.nodes * band1_.nodes * inner_)),
          grad_(random_values<T>(random, band0_.points * band1_.points * inner_)) {
        current_case = "[(" + text(c.axis0) + "), (" + text(c.axis1) + "), " + std::to_string(inner_) + "]";
        if (c.poisoned) {
            poison(random, values_);
            poison(random, grad_);
        }
    }

    void samples() const {
        check("sample_2d", values_, device0_.axis, band0_.forward(), device1_.axis, band1_.forward());
        check("sample_2d, transposed", grad_, device0_.transposed, band0_.backward(), device1_.transposed,
              band1_.backward());
    }

    void weight0_grad() const {
        const int64_t points = band0_.points, taps = band0_.taps, columns = band1_.nodes * inner_;
        const std::vector<A> out = result_of<A>("weight0_grad", points * taps, [&](A* to, int offset) {
            const Input<T> grad(grad_, offset), values(values_, offset);
            const cuda::Parts parts = cuda::weight0_grad_parts(points, taps, band1_.nodes, inner_);
            Output<A> partial(parts.parts > 1 ? parts.parts * points * taps : 0, 0);
            cuda::weight0_grad_2d<T>(grad.data(), values.data(), device0_.unweighted, device1_.transposed,
                                     inner_, parts, partial.data(), to, nullptr);
            partial.written("partial sums of weight0_grad");
        });
        const Sums values(values_);
        const Sums pulled =
            sampled(Sums(grad_), points, band1_.points, band1_.nodes, inner_, band1_.backward());
        const std::vector<bool> touched = band1_.touched();
        Sums expected(points * taps);
        for (int64_t k = 0; k < points * taps; ++k) {
            const int64_t o = k / taps, s = band0_.first(o) + k % taps;
            for (int64_t c = 0; c < columns; ++c) {
                if (touched[c / inner_]) {
                    expected.add_product(k, pulled, o * columns + c, values, s * columns + c);
                }
            }
            if (!band0_.valid(o)) expected.sum[k] = kNan;
        }
        check_close("weight0_grad", out, expected);
    }

    void weight1_grad() const {
        const int64_t nodes0 = band0_.nodes, nodes1 = band1_.nodes, points = band1_.points,
                      taps = band1_.taps;
        const std::vector<A> out = result_of<A>("weight1_grad", points * taps, [&](A* to, int offset) {
            const Input<T> grad(grad_, offset), values(values_, offset);
            const cuda::Parts parts = cuda::weight1_grad_parts(nodes0, points, taps, inner_);
            Output<A> partial(parts.parts > 1 ? parts.parts * points * taps : 0, 0);
            cuda::weight1_grad<T>(grad.data(), values.data(), device0_.transposed, device1_.unweighted,
                                  inner_, parts, partial.data(), to, nullptr);
            partial.written("partial sums of weight1_grad");
        });
        const Sums values(values_), pulled = pulled_rows();
        const std::vector<bool> touched = band0_.touched();
        Sums expected(points * taps);
        for (int64_t k = 0; k < points * taps; ++k) {
            const int64_t i = k / taps, t = band1_.first(i) + k % taps;
            for (int64_t s = 0; s < nodes0; ++s) {
                for (int64_t r = 0; touched[s] && r < inner_; ++r) {
                    expected.add_product(k, pulled, (s * points + i) * inner_ + r, values,
                                         (s * nodes1 + t) * inner_ + r);
                }
            }
            if (!band1_.valid(i)) expected.sum[k] = kNan;
        }
        check_close("weight1_grad", out, expected);
    }

  private:
    Band<A> band0_, band1_;
    DeviceBand<A> device0_, device1_;
    int64_t inner_;
    std::vector<T> values_, grad_;

    // grad through axis 0 transposed: [nodes0, points1, inner]
    Sums pulled_rows() const {
        return sampled(Sums(grad_), 1, band0_.points, band0_.nodes, band1_.points * inner_,
                       band0_.backward());
    }

    template <typename Matrix0, typename Matrix1>
    void check(const char* what, const std::vector<T>& in, const cuda::Axis<A>& axis0, const Matrix0& matrix0,
               const cuda::Axis<A>& axis1, const Matrix1& matrix1) const {
        const std::vector<T> out =
            result_of<T>(what, axis0.outputs * axis1.outputs * inner_, [&](T* to, int offset) {
                const Input<T> from(in, offset);
                cuda::sample_2d<T>(from.data(), axis0, axis1, inner_, to, nullptr);
            });
        const Sums rows = sampled(Sums(in), 1, axis0.nodes, axis0.outputs, axis1.nodes * inner_, matrix0);
        const Sums expected = sampled(rows, axis0.outputs, axis1.nodes, axis1.outputs, inner_, matrix1);
        check_close(what, out, expected);
    }
};

// ----------------------------------------------------------------------------------------------------- cases

// Taps and starts of all kinds, as many nodes as taps or more.
Shape random_shape(expect::Random& random, int64_t most_nodes, int64_t most_points) {
    constexpr int64_t kTaps[] = {1, 2, 3, 4, 4, 4, 6, 8, 9, 16, 17, 40};
    const int64_t taps = std::min(most_nodes, kTaps[random.below(std::size(kTaps))]);
    const int64_t nodes = taps + (random.below(4) == 0 ? 0 : random.below(most_nodes - taps + 1));
    const int64_t points = random.below(8) == 0 ? random.below(2) : random.below(most_points) + 1;
    return {nodes, points, taps, kStarts[random.below(std::size(kStarts))]};
}

constexpr int64_t kInner[] = {1, 2, 3, 4, 8, 9, 16, 31, 32, 33, 48, 343, 1100};

using enum Starts;

// Tiles beside and below each other, halved tiles, taps that do not fit on chip, outputs without taps, values
// summed directly, marches with jumps ahead and back, nothing at all.
constexpr Case1d kCases1d[] = {
    {20, {700, 1300, 4, spread}, 1},
    {20, {400, 300, 6, spread}, 3},
    {2, {4000, 2000, 4, clustered}, 1},
    {2, {4000, 2000, 3, clustered}, 1},
    {2, {240, 1000, 40, equal}, 1},
    {2, {240, 500, 40, equal}, 1},
    {2, {3000, 20, 4, crowded}, 1},
    {2, {3000, 1500, 4, scattered}, 1},
    {2, {700, 900, 9, sawtooth}, 1},
    {2, {300, 600, 4, invalid}, 3},
    {2, {300, 600, 2, invalid}, 3},
    {2, {3000, 1000, 4, invalid}, 1},
    {0, {9, 7, 4, spread}, 2},
    {3, {9, 0, 4, spread}, 2},
    {3, {0, 0, 4, spread}, 2},
    {3, {9, 7, 4, spread}, 0},
    // sums of rows
    {70, {9, 20, 4, spread}, 33},
    {6, {30, 100, 4, spread}, 343},
    {3, {40, 9, 17, spread}, 70},
    {3, {150, 12, 6, spread}, 40},
    {3, {60, 60, 3, sawtooth}, 40},
    {3, {60, 60, 3, scattered}, 40},
    {3, {40, 70, 2, equal}, 40},
    {5, {30, 50, 4, invalid}, 40},
    {5, {30, 50, 6, invalid}, 40},
    {0, {9, 7, 4, spread}, 40},
    {3, {9, 0, 4, spread}, 40},
    {3, {0, 0, 4, spread}, 40},
};
constexpr Case2d kCases2d[] = {
    {{100, 120, 4, spread}, {300, 250, 4, spread}, 9},
    {{60, 120, 4, sawtooth}, {300, 250, 3, spread}, 3},
    {{200, 16, 4, clustered}, {90, 60, 4, spread}, 3},
    {{200, 16, 4, clustered}, {90, 60, 3, spread}, 3},
    {{200, 16, 6, clustered}, {90, 60, 4, spread}, 3},
    {{70, 50, 6, spread}, {200, 300, 4, clustered}, 8},
    {{70, 50, 9, scattered}, {900, 600, 4, clustered}, 3},
    {{70, 50, 17, spread}, {200, 90, 16, spread}, 4},
    {{3, 40, 2, spread}, {2, 30, 2, spread}, 31},
    {{12, 9, 8, invalid}, {40, 30, 4, scattered}, 32},
    {{12, 9, 4, invalid}, {2000, 200, 4, invalid}, 1},
    {{12, 9, 4, invalid}, {2000, 200, 6, invalid}, 1},
    {{12, 9, 6, invalid}, {2000, 200, 6, invalid}, 1},
    {{40, 30, 4, equal}, {40, 600, 4, equal}, 1},
    {{40, 7, 4, crowded}, {900, 7, 4, crowded}, 2},
    {{9, 0, 4, spread}, {9, 5, 4, spread}, 2},
    {{9, 5, 4, spread}, {9, 0, 4, spread}, 2},
    {{0, 0, 4, spread}, {0, 0, 4, spread}, 2},
    {{9, 7, 4, spread}, {9, 7, 4, spread}, 0},
    // One point whose taps fill a tile, from a node where no vector begins.
    {{5, 6, 3, spread}, {1044, 1, 1024, equal}, 1},
    {{5, 6, 3, spread}, {1048, 1, 1024, equal}, 1},
    {{5, 6, 3, spread}, {534, 1, 512, equal}, 1},
};

template <typename T>
void check_samples(expect::Random& random) {
    for (const Case1d& c : kCases1d) Check1d<T>(random, c).samples();
    for (const Case2d& c : kCases2d) Check2d<T>(random, c).samples();
    for (int k = 0; k < 2; ++k) {
        for (const int64_t inner : kInner) {
            const int64_t most = std::max<int64_t>(5, 2000 / inner);
            const Shape shape = random_shape(random, most, most);
            Check1d<T>(random, {random.below(5), shape, inner, k == 0}).samples();
        }
        for (const int64_t inner : kInner) {
            const int64_t most = std::max<int64_t>(5, 600 / inner);
            const Shape shape0 = random_shape(random, 60, 60), shape1 = random_shape(random, most, most);
            Check2d<T>(random, {shape0, shape1, inner, k == 0}).samples();
        }
    }
}

template <typename T>
void check_weight_grads(expect::Random& random) {
    for (const Case1d& c : {Case1d{0, {9, 7, 4, spread}, 2},
                            {3, {9, 0, 4, spread}, 2},
                            {3, {9, 7, 4, spread}, 0},
                            {700, {9, 7, 4, invalid}, 3}}) {
        Check1d<T>(random, c).weight_grad();
    }
    for (const int64_t inner : kInner) {
        const Shape shape = random_shape(random, std::max<int64_t>(5, 100 / inner), 9);
        Check1d<T>(random, {random.below(200), shape, inner, false}).weight_grad();
    }
    const auto check = [&](const Case2d& c) {
        const Check2d<T> both(random, c);
        both.weight0_grad();
        both.weight1_grad();
    };
    for (const Case2d& c : {Case2d{{9, 0, 4, spread}, {9, 5, 4, spread}, 2},
                            {{9, 5, 4, spread}, {9, 0, 4, spread}, 2},
                            {{9, 7, 4, spread}, {9, 7, 4, spread}, 0},
                            {{9, 7, 4, invalid}, {2500, 10, 4, spread}, 1, true},
                            {{150, 7, 4, spread}, {40, 10, 4, invalid}, 3, true}}) {
        check(c);
    }
    for (const int64_t inner : kInner) {
        const Shape shape0 = random_shape(random, 60, 9);
        check({shape0, random_shape(random, std::max<int64_t>(5, 1000 / inner), 9), inner, inner % 2 == 0});
    }
}

template <typename A>
void check_transposes(expect::Random& random) {
    for (const Starts starts : kStarts) {
        for (const auto& [nodes, points, taps] :
             {std::array<int64_t, 3>{50, 1, 4}, {50, 70, 1}, {7, 300, 7}, {300, 40, 17}}) {
            check_transpose<A>(random, {nodes, points, taps, starts});
        }
    }
    check_transpose<A>(random, {50, 0, 4, spread});
    check_transpose<A>(random, {0, 0, 4, spread});
    check_transpose<A>(random, {8300, 200, 4, spread});  // more nodes than warps
}

template <typename T>
void check_type() {
    expect::Random random;
    check_samples<T>(random);
    check_weight_grads<T>(random);
}

}  // namespace

int main() {
    expect::Random random;
    check_transposes<float>(random);
    check_transposes<double>(random);
    check_type<float>();
    check_type<double>();
    check_type<Half>();
    check_type<BFloat16>();
    return expect::summary();
}
