// The CUDA kernel of the backward pass of the projection onto the l-infinity ball, emulated, against its
// formula; any number of threads gives the same bits.
#include <cstring>
#include <limits>
#include <vector>

#include "expect.h"
#include "projection/project_linf_backward_cuda.cu"
#include "simt/simt.h"

using namespace integralrob;
using cuda::Place;

namespace {

struct Way {
    Place place;
    bool clusters;
};

template <typename T>
struct Case {
    using A = arithmetic_t<T>;
    int64_t rows, length;
    int offset;  // of the tensors, from where vectors could be loaded
    bool box;
    A lo = 0, hi = 1;
    std::vector<T> grad, delta, center;
    std::vector<A> eps;

    // Multiples of 1/8, so that entries lie on limits too; a radius and a gradient are not numbers.
    Case(expect::Random& random, int64_t rows_, int64_t length_, int offset_, bool box_)
        : rows(rows_), length(length_), offset(offset_), box(box_) {
        const auto eighths = [&] { return narrow<T>(static_cast<A>(std::round(12 * random.number()) / 8)); };
        for (auto* tensor : {&grad, &delta, &center}) tensor->resize(offset + rows * length);
        for (int64_t k = offset; k < offset + rows * length; ++k) {
            grad[k] = narrow<T>(static_cast<A>(random.number()));
            delta[k] = eighths();
            center[k] = eighths();
        }
        for (int64_t row = 0; row < rows; ++row) eps.push_back(static_cast<A>(random.below(8)) / 8);
        if (rows > 4 && length > 0) {
            grad[offset + 4 * length] = narrow<T>(std::numeric_limits<A>::quiet_NaN());
            delta[offset + 4 * length] = narrow<T>(A(-2));
            center[offset + 4 * length] = narrow<T>(A(1));
            eps[3] = std::numeric_limits<A>::quiet_NaN();
        }
    }

    struct Gradients {
        std::vector<T> delta, center;
        std::vector<A> eps;
    };

    Gradients run(Way way) const {
        Gradients out{std::vector<T>(offset + rows * length),
                      std::vector<T>(box ? offset + rows * length : 0), std::vector<A>(rows)};
        cuda::find_gradients<T>({grad.data() + offset,
                                 delta.data() + offset,
                                 box ? center.data() + offset : nullptr,
                                 {eps.data(), 1},
                                 lo,
                                 hi,
                                 rows,
                                 length,
                                 out.delta.data() + offset,
                                 out.eps.data(),
                                 box ? out.center.data() + offset : nullptr},
                                way.place, way.clusters, nullptr);
        return out;
    }

    void check(const std::vector<Way>& ways) const {
        const Gradients expected = run({Place::kAny, true});
        const auto same = [](const auto& x, const auto& y) {
            return x.empty() || std::memcmp(x.data(), y.data(), x.size() * sizeof(x[0])) == 0;
        };
        for (const Way& way : ways) {
            const Gradients out = run(way);
            CHECK_THAT(same(out.delta, expected.delta) && same(out.center, expected.center) &&
                           same(out.eps, expected.eps),
                       "[%lld, %lld] in place %d", (long long)rows, (long long)length, int(way.place));
        }
        for (int64_t row = 0; row < rows; ++row) check_row(row, expected);
    }

    void check_row(int64_t row, const Gradients& out) const {
        long double sum = 0, size = 0;
        const auto equal = [](double x, double y) { return x == y || (std::isnan(x) && std::isnan(y)); };
        for (int64_t k = offset + row * length; k < offset + (row + 1) * length; ++k) {
            const double y = widen(delta[k]), g = widen(grad[k]), c = widen(center[k]), e = eps[row];
            const double below = box ? std::min(lo - c, 0.0) : -std::numeric_limits<double>::infinity(),
                         above = box ? std::max(hi - c, 0.0) : std::numeric_limits<double>::infinity();
            // What the entry follows: delta, the ball, the box, or nothing.
            const bool by_ball = (y > e && e <= above) || (y < -e && -e >= below);
            const bool by_box = !by_ball && !std::isnan(e) && (y > above || y < below);
            if (by_ball) sum += y > 0 ? g : -g, size += std::fabs(g);
            CHECK_THAT(equal(widen(out.delta[k]), by_ball || by_box ? 0 : g),
                       "element %lld of %lld: %g, from %g", (long long)k, (long long)length,
                       double(widen(out.delta[k])), g);
            if (!box) continue;
            const double limit = y > above ? above : below;
            CHECK_THAT(equal(widen(out.center[k]), by_box && limit != 0 ? -g : 0),
                       "element %lld of %lld: %g, from %g", (long long)k, (long long)length,
                       double(widen(out.center[k])), g);
        }
        const double rounding = sizeof(A) == 4 ? 0x1p-23 : 0x1p-50;
        CHECK_THAT(std::isnan(sum)
                       ? std::isnan(out.eps[row])
                       : std::fabs(out.eps[row] - sum) <= rounding * (std::fabs(sum) + 1e-6 * size),
                   "row of %lld: %.9g, not %.9g", (long long)length, double(out.eps[row]), double(sum));
    }
};

template <typename T>
void check_type(uint64_t seed) {
    simt::set_seed(seed);
    expect::Random random;
    const std::vector<Way> few = {{Place::kWarp, true}, {Place::kBlock, true}};
    const std::vector<Way> all = {
        {Place::kWarp, true}, {Place::kBlock, true}, {Place::kCluster, true}, {Place::kCluster, false}};
    const auto check = [&](int64_t rows, int64_t length, int offset, const std::vector<Way>& ways) {
        for (const bool box : {false, true}) Case<T>(random, rows, length, offset, box).check(ways);
    };
    for (int64_t length = 0; length <= 70; length += 3) check(6, length, static_cast<int>(length) % 2, few);
    for (const int64_t length : {1024, 1025, 3072}) check(2, length, 0, few);
    check(3, 4096, 1, all);
    check(1, 4097, 0, all);
    check(1, 20000, 0, all);
}

}  // namespace

int main() {
    for (const uint64_t seed : {0, 1}) {
        check_type<float>(seed);
        check_type<double>(seed);
        check_type<Half>(seed);
        check_type<BFloat16>(seed);
    }
    return expect::summary();
}
