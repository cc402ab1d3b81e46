// l-infinity projection and step against the formula written with std::clamp, ranges that split rows, NaN, in
// place.
#include <algorithm>
#include <limits>

#include "expect.h"
#include "projection/projection_kernels.h"

using namespace integralrob;

namespace {

template <typename T>
double exact(T x) {
    return widen(x);
}

template <typename T>
std::vector<T> random_batch(expect::Random& random, int64_t count) {
    return random.numbers<T>(count, [](double x) { return narrow<T>(static_cast<arithmetic_t<T>>(x)); });
}

// Bits, with every NaN the same.
template <typename T>
bool same(T x, T y) {
    const auto a = widen(x), b = widen(y);
    return a == b || (std::isnan(a) && std::isnan(b));
}

template <typename T>
struct Case {
    using A = arithmetic_t<T>;
    int64_t rows, length;
    std::vector<T> x, grad, x_adv;
    std::vector<A> eps, step;

    Case(expect::Random& random, int64_t rows_, int64_t length_)
        : rows(rows_),
          length(length_),
          x(random_batch<T>(random, rows * length)),
          grad(random_batch<T>(random, rows * length)),
          x_adv(random_batch<T>(random, rows * length)) {
        for (int64_t k = 0; k < rows * length; k += 5) grad[k] = T{};
        for (int64_t row = 0; row < rows; ++row) {
            eps.push_back(static_cast<A>(std::fabs(random.number())));
            step.push_back(static_cast<A>(std::fabs(random.number())));
        }
    }

    // In pieces, as threads would: boundaries inside of rows.
    template <typename Run>
    void in_pieces(const Run& run) const {
        const int64_t count = rows * length;
        for (int64_t begin = 0; begin < count; begin += 37) run(begin, std::min(begin + 37, count));
    }

    void check_projection(bool per_row, const T* center, A lo, A hi) const {
        const PerRow<A> radius{eps.data(), per_row ? 1 : 0};
        std::vector<T> out(rows * length);
        in_pieces([&](int64_t begin, int64_t end) {
            INTEGRALROB_ON_ISA(project_linf<T>, x_adv.data(), center, radius, lo, hi, length, out.data(),
                               begin, end);
        });
        for (int64_t k = 0; k < rows * length; ++k) {
            const A e = eps[per_row ? k / length : 0], delta = widen(x_adv[k]);
            const A least = center ? std::max(-e, std::min(lo - A(widen(center[k])), A(0))) : -e;
            const A most = center ? std::min(e, std::max(hi - A(widen(center[k])), A(0))) : e;
            const T expected = narrow<T>(std::clamp(delta, least, most));
            CHECK_THAT(same(out[k], expected), "[%lld, %lld] element %lld: %g, not %g", (long long)rows,
                       (long long)length, (long long)k, exact(out[k]), exact(expected));
        }
    }

    void check_step(bool per_row, A lo, A hi) const {
        const PerRow<A> radius{eps.data(), per_row ? 1 : 0}, size{step.data(), per_row ? 1 : 0};
        std::vector<T> out(rows * length), in_place = x_adv;
        in_pieces([&](int64_t begin, int64_t end) {
            INTEGRALROB_ON_ISA(linf_step<T>, x_adv.data(), grad.data(), x.data(), radius, size, lo, hi,
                               length, out.data(), begin, end);
            INTEGRALROB_ON_ISA(linf_step<T>, in_place.data(), grad.data(), x.data(), radius, size, lo, hi,
                               length, in_place.data(), begin, end);
        });
        for (int64_t k = 0; k < rows * length; ++k) {
            const int64_t row = per_row ? k / length : 0;
            const A g = widen(grad[k]), clean = widen(x[k]);
            A moved = A(widen(x_adv[k])) + (g > 0 ? step[row] : g < 0 ? -step[row] : A(0));
            moved = std::clamp(std::clamp(moved, clean - eps[row], clean + eps[row]), lo, hi);
            CHECK_THAT(same(out[k], narrow<T>(moved)), "[%lld, %lld] element %lld: %g, not %g",
                       (long long)rows, (long long)length, (long long)k, exact(out[k]),
                       exact(narrow<T>(moved)));
            CHECK(same(in_place[k], out[k]));
        }
    }
};

template <typename T>
void check_nan() {
    using A = arithmetic_t<T>;
    const A nan = std::numeric_limits<A>::quiet_NaN(), infinity = std::numeric_limits<A>::infinity();
    const int64_t length = 40;
    const A eps[] = {A(0.5), nan, infinity};
    const std::vector<T> ones(3 * length, narrow<T>(A(1)));
    std::vector<T> out(3 * length);
    for (int64_t position = 0; position < length; ++position) {
        for (int which = 0; which < 3; ++which) {  // x_adv, grad, x
            std::vector<T> argument[] = {ones, ones, ones};
            argument[which][position] = narrow<T>(nan);
            INTEGRALROB_ON_ISA(linf_step<T>, argument[0].data(), argument[1].data(), argument[2].data(),
                               PerRow<A>{eps, 1}, PerRow<A>{eps, 0}, -infinity, infinity, length, out.data(),
                               0, 3 * length);
            for (int64_t k = 0; k < 3 * length; ++k) {
                CHECK(std::isnan(widen(out[k])) == (k == position || k / length == 1));
            }
            if (which == 1) continue;
            INTEGRALROB_ON_ISA(project_linf<T>, argument[0].data(), argument[2].data(), PerRow<A>{eps, 1},
                               A(0), A(1), length, out.data(), 0, 3 * length);
            for (int64_t k = 0; k < 3 * length; ++k) {
                CHECK(std::isnan(widen(out[k])) == (k == position || k / length == 1));
            }
        }
    }
}

template <typename T>
void check_type() {
    using A = arithmetic_t<T>;
    const A infinity = std::numeric_limits<A>::infinity();
    expect::Random random;
    for (const auto& [rows, length] :
         {std::pair<int64_t, int64_t>{1, 1}, {3, 5}, {7, 16}, {2, 257}, {100, 1}, {1, 1000}}) {
        const Case<T> batch(random, rows, length);
        for (const bool per_row : {false, true}) {
            batch.check_projection(per_row, nullptr, A(0), A(1));
            batch.check_projection(per_row, batch.x.data(), A(0), A(1));
            batch.check_projection(per_row, batch.x.data(), A(-0.5), infinity);
            batch.check_step(per_row, A(0), A(1));
            batch.check_step(per_row, -infinity, infinity);
        }
    }
    check_nan<T>();
}

}  // namespace

int main() {
    check_type<float>();
    check_type<double>();
    check_type<Half>();
    check_type<BFloat16>();
    return expect::summary();
}
