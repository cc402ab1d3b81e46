// The CUDA kernels of the backward passes of the projections onto balls, emulated, against their formulas in
// float64; any number of threads gives the same bits.
#include <limits>
#include <vector>

#include "expect.h"
#include "projection/project_ball_backward_cuda.cu"
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
    static constexpr T kGuard = {};
    int64_t rows, length;
    int offset;  // of the tensors, from where vectors could be loaded
    bool box;
    std::vector<T> grad, delta, result, center;
    std::vector<A> eps;

    // Results as a projection would give them: rows of each of |δ| = min(a, b) (inside the ball), and of
    // entries that are shrunk, zero, or on the box.
    Case(expect::Random& random, int64_t rows_, int64_t length_, int offset_, bool box_)
        : rows(rows_), length(length_), offset(offset_), box(box_) {
        for (auto* tensor : {&grad, &delta, &result, &center}) tensor->resize(offset + rows * length);
        for (int64_t row = 0; row < rows; ++row) {
            eps.push_back(static_cast<A>(std::fabs(random.number())));
            for (int64_t k = offset + row * length; k < offset + (row + 1) * length; ++k) {
                grad[k] = narrow<T>(static_cast<A>(random.number()));
                delta[k] = narrow<T>(static_cast<A>(random.below(9) == 0 ? 0 : random.number()));
                center[k] = narrow<T>(static_cast<A>(random.below(9) == 0 ? 1 : std::fabs(random.number())));
                const A a = std::fabs(widen(delta[k])), b = limit_of(k);
                const A shrunk = row % 3 == 0 ? a : random.below(4) == 0 ? A(0) : a / 2;
                result[k] = signed_entry(std::min(shrunk, b), delta[k]);
            }
        }
        if (rows > 4) grad[offset + 4 * length] = narrow<T>(std::numeric_limits<A>::quiet_NaN());
    }

    A limit_of(int64_t k) const {
        return box ? limit(A(widen(delta[k])), A(widen(center[k])), A(0), A(1),
                           std::numeric_limits<A>::infinity())
                   : std::numeric_limits<A>::infinity();
    }

    struct Gradients {
        std::vector<T> delta, center;
        std::vector<A> eps;
    };

    template <template <typename> typename Gradient>
    Gradients run(Way way) const {
        Gradients out{std::vector<T>(offset + rows * length),
                      std::vector<T>(box ? offset + rows * length : 0), std::vector<A>(rows)};
        cuda::project_ball_backward<Gradient, T>({grad.data() + offset,
                                                  delta.data() + offset,
                                                  result.data() + offset,
                                                  box ? center.data() + offset : nullptr,
                                                  {eps.data(), 1},
                                                  A(0),
                                                  A(1),
                                                  rows,
                                                  length,
                                                  out.delta.data() + offset,
                                                  out.eps.data(),
                                                  box ? out.center.data() + offset : nullptr},
                                                 "a backward pass", way.place, way.clusters, nullptr);
        return out;
    }

    template <template <typename> typename Gradient>
    void check(const std::vector<Way>& ways) const {
        const Gradients expected = run<Gradient>({Place::kAny, true});
        const auto same = [](const auto& x, const auto& y) {
            return x.empty() || std::memcmp(x.data(), y.data(), x.size() * sizeof(x[0])) == 0;
        };
        for (const Way& way : ways) {
            const Gradients out = run<Gradient>(way);
            CHECK_THAT(same(out.delta, expected.delta) && same(out.center, expected.center) &&
                           same(out.eps, expected.eps),
                       "[%lld, %lld] by threads %d", (long long)rows, (long long)length, int(way.place));
        }
        for (int64_t row = 0; row < rows; ++row) check_row<Gradient>(row, expected);
    }

    template <template <typename> typename Gradient>
    void check_row(int64_t row, const Gradients& out) const {
        constexpr bool kL1 = std::is_same_v<Gradient<A>, cuda::L1Gradient<A>>;
        const int64_t first = offset + row * length;
        std::vector<ProjectedEntry<T>> entries;
        bool on_sphere = false;
        for (int64_t k = 0; k < length; ++k) {
            entries.emplace_back(delta[first + k], result[first + k], limit_of(first + k));
            on_sphere = on_sphere || entries[k].cut();
        }
        const auto direction = [&](int64_t k) {
            return kL1 ? (std::signbit(widen(delta[first + k])) ? -1.0 : 1.0)
                       : double(widen(result[first + k]));
        };
        double gd = 0, dd = 0, aa = 0;
        for (int64_t k = 0; k < length; ++k) {
            if (entries[k].clipped() || entries[k].m == 0) continue;
            gd += double(widen(grad[first + k])) * direction(k);
            dd += direction(k) * direction(k);
            aa += double(entries[k].a) * entries[k].a;
        }
        const double mean = !on_sphere ? 0
                            : dd > 0   ? gd / dd
                                       : gd,
                     s = kL1 || !on_sphere ? 1
                         : dd > 0          ? std::sqrt(dd / aa)
                                           : 0;
        const double rounding = sizeof(T) == 2 ? 0x1p-7 : sizeof(T) == 4 ? 0x1p-20 : 0x1p-48;
        const auto close = [&](double x, double expected) {
            return (std::isnan(x) && std::isnan(expected)) ||
                   std::fabs(x - expected) <=
                       rounding * (1e-3 + std::fabs(expected) + (std::isnan(mean) ? 0 : std::fabs(mean)));
        };
        CHECK_THAT(close(out.eps[row], kL1 ? mean : mean * eps[row]), "%g, not %g", double(out.eps[row]),
                   mean);
        for (int64_t k = 0; k < length; ++k) {
            const double moved = double(widen(grad[first + k])) - mean * direction(k);
            const double of_delta = entries[k].template follows<!kL1>(on_sphere) ? s * moved : 0,
                         of_center = entries[k].moves_with_center() ? -moved : 0;
            CHECK_THAT(close(widen(out.delta[first + k]), of_delta),
                       "l%d, row %lld, element %lld of %lld: %g, not %g", kL1 ? 1 : 2, (long long)row,
                       (long long)k, (long long)length, double(widen(out.delta[first + k])), of_delta);
            CHECK_THAT(!box || close(widen(out.center[first + k]), of_center),
                       "l%d, row %lld, element %lld: %g, not %g", kL1 ? 1 : 2, (long long)row, (long long)k,
                       double(widen(out.center[first + k])), of_center);
        }
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
        for (const bool box : {false, true}) {
            const Case<T> batch(random, rows, length, offset, box);
            batch.template check<cuda::L1Gradient>(ways);
            batch.template check<cuda::L2Gradient>(ways);
        }
    };
    for (int64_t length = 1; length <= 70; length += 3) check(6, length, static_cast<int>(length) % 2, few);
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
