// l-infinity projection, its derivative, and step against the formulas written with std::clamp, ranges that
// split rows, NaN, in place, with and without momentum.
#include <algorithm>
#include <limits>

#include "expect.h"
#include "projection/projection_kernels.h"
#include "threads.h"

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

template <typename T>
double rounding() {
    return std::is_same_v<T, Half> ? 0x1p-11 : sizeof(T) == 2 ? 0x1p-8 : sizeof(T) == 4 ? 0x1p-24 : 0x1p-53;
}

// Bits, with every NaN the same.
template <typename T>
bool same(T x, T y) {
    const auto a = widen(x), b = widen(y);
    return a == b || (std::isnan(a) && std::isnan(b));
}

// Of two finite numbers that differ.
template <typename T>
T next_towards(T from, T to) {
    if constexpr (sizeof(T) > 2) {
        return std::nextafter(from, to);
    } else {
        const bool up = widen(to) > widen(from);
        if (widen(from) == 0) return {static_cast<uint16_t>(up ? 1 : 0x8001)};
        return {static_cast<uint16_t>(up == (widen(from) > 0) ? from.bits + 1 : from.bits - 1)};
    }
}

// Type of the sums of A without a rounding, where the numbers are of about one size.
template <typename A>
using Exact = std::conditional_t<std::is_same_v<A, float>, double, long double>;

// The nearest number to x + delta that is no further from x than delta.
template <typename T>
T limit_of(T x, arithmetic_t<T> delta) {
    using E = Exact<arithmetic_t<T>>;
    T to = narrow<T>(arithmetic_t<T>(widen(x)) + delta);
    while (std::fabs(E(widen(to)) - E(widen(x))) > std::fabs(E(delta))) to = next_towards(to, x);
    return to;
}

template <typename T>
struct Case {
    using A = arithmetic_t<T>;
    int64_t rows, length;
    std::vector<T> x, grad, x_adv, previous;
    std::vector<A> eps, size;

    Case(expect::Random& random, int64_t rows_, int64_t length_)
        : rows(rows_),
          length(length_),
          x(random_batch<T>(random, rows * length)),
          grad(random_batch<T>(random, rows * length)),
          x_adv(random_batch<T>(random, rows * length)),
          previous(random_batch<T>(random, rows * length)) {
        for (int64_t k = 0; k < rows * length; k += 5) grad[k] = T{};
        for (int64_t row = 0; row < rows; ++row) {
            eps.push_back(static_cast<A>(std::fabs(random.number())));
            size.push_back(static_cast<A>(std::fabs(random.number())));
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

    void check_step(bool per_row, A momentum, A lo, A hi) const {
        const int64_t stride = per_row ? 1 : 0;
        Step<T> step{x_adv.data(),
                     grad.data(),
                     x.data(),
                     momentum > 0 ? previous.data() : nullptr,
                     {eps.data(), stride},
                     {size.data(), stride},
                     {nullptr, 0},
                     momentum,
                     lo,
                     hi,
                     rows,
                     length,
                     nullptr};
        std::vector<T> out(rows * length), in_place = x_adv;
        step.out = out.data();
        in_pieces([&](int64_t begin, int64_t end) { INTEGRALROB_ON_ISA(linf_step<T>, step, begin, end); });
        step.x_adv = step.out = in_place.data();
        in_pieces([&](int64_t begin, int64_t end) { INTEGRALROB_ON_ISA(linf_step<T>, step, begin, end); });
        for (int64_t k = 0; k < rows * length; ++k) {
            const int64_t row = per_row ? k / length : 0;
            const A g = widen(grad[k]), clean = widen(x[k]), from = widen(x_adv[k]);
            const auto clipped = [&](A moved, A least, A most) {
                return std::clamp(std::clamp(moved, least, most), lo, hi);
            };
            A moved = from + (g > 0 ? size[row] : g < 0 ? -size[row] : A(0));
            if (momentum > 0) {
                const A z = clipped(moved, clean - eps[row], clean + eps[row]);
                moved = from + ((1 - momentum) * (z - from) + momentum * (from - A(widen(previous[k]))));
            }
            const A least = widen(limit_of(x[k], -eps[row])), most = widen(limit_of(x[k], eps[row]));
            const A expected = clipped(moved, least, most);
            // With momentum, products may be fused into the sums.
            const double slack = momentum > 0 ? 4 * rounding<T>() : 0;
            CHECK_THAT(same(out[k], narrow<T>(expected)) || std::fabs(exact(out[k]) - expected) <= slack,
                       "[%lld, %lld] element %lld: %g, not %g", (long long)rows, (long long)length,
                       (long long)k, exact(out[k]), exact(narrow<T>(expected)));
            CHECK(lo > clean || clean > hi || (exact(out[k]) >= least && exact(out[k]) <= most));
            CHECK(same(in_place[k], out[k]));
        }
    }

    void check_gradients(bool per_row, const T* center, A lo, A hi, ParallelFor parallel) const {
        std::vector<T> of_delta(rows * length), of_center(rows * length);
        std::vector<A> of_eps(rows);
        INTEGRALROB_ON_ISA(project_linf_backward<T>, grad.data(), x_adv.data(),
                           PerRow<A>{eps.data(), per_row ? 1 : 0}, center, lo, hi, length, of_delta.data(),
                           of_eps.data(), center ? of_center.data() : nullptr, 0, rows, parallel);
        for (int64_t row = 0; row < rows; ++row) {
            long double sum = 0, size = 0;
            for (int64_t k = row * length; k < (row + 1) * length; ++k) {
                const A e = eps[per_row ? row : 0], y = widen(x_adv[k]), g = widen(grad[k]);
                const A down = center ? std::min(lo - A(widen(center[k])), A(0)) : -e;
                const A up = center ? std::max(hi - A(widen(center[k])), A(0)) : e;
                const bool above = y > std::min(e, up), below = y < std::max(-e, down);
                if (above && e <= up) sum += g;
                if (below && -e >= down) sum -= g;
                size += std::fabs(g);
                CHECK(same(of_delta[k], above || below ? T{} : grad[k]));
                const bool by_box = (above && up < e && up > 0) || (below && down > -e && down < 0);
                if (center) CHECK(exact(of_center[k]) == (by_box ? -g : 0));
            }
            CHECK(std::fabs(of_eps[row] - sum) <= rounding<A>() * (std::fabs(sum) + 1e-6 * size));
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
        for (int which = 0; which < 4; ++which) {  // x_adv, grad, x, previous
            std::vector<T> argument[] = {ones, ones, ones, ones};
            argument[which][position] = narrow<T>(nan);
            for (const bool momentum : {false, true}) {
                const T* previous = momentum ? argument[3].data() : nullptr;
                const Step<T> step{argument[0].data(),
                                   argument[1].data(),
                                   argument[2].data(),
                                   previous,
                                   {eps, 1},
                                   {eps, 0},
                                   {nullptr, 0},
                                   A(0.5),
                                   -infinity,
                                   infinity,
                                   3,
                                   length,
                                   out.data()};
                INTEGRALROB_ON_ISA(linf_step<T>, step, 0, 3 * length);
                for (int64_t k = 0; k < 3 * length; ++k) {
                    const bool unknown = k == position && (which < 3 || momentum);
                    CHECK(std::isnan(widen(out[k])) == (unknown || k / length == 1));
                }
            }
            if (which % 2 == 1) continue;
            INTEGRALROB_ON_ISA(project_linf<T>, argument[0].data(), argument[2].data(), PerRow<A>{eps, 1},
                               A(0), A(1), length, out.data(), 0, 3 * length);
            for (int64_t k = 0; k < 3 * length; ++k) {
                CHECK(std::isnan(widen(out[k])) == (k == position || k / length == 1));
            }
        }
    }
}

// x ± eps where they are hardest to round: of all sizes, around 0, subnormal, beyond the largest number.
template <typename T>
void check_moved() {
    using A = arithmetic_t<T>;
    using E = Exact<A>;
    expect::Random random;
    const int least = std::is_same_v<T, Half> ? -26 : sizeof(T) == 8 ? -1076 : -140;
    const int most = std::is_same_v<T, Half> ? 16 : sizeof(T) == 8 ? 1024 : 128;
    for (int k = 0; k < 200000; ++k) {
        const int exponent = least + static_cast<int>(random.below(most - least));
        const T x = narrow<T>(std::ldexp(static_cast<A>(random.number()), exponent));
        const A delta =
            std::ldexp(static_cast<A>(random.number()), exponent + static_cast<int>(random.below(9)) - 4);
        if (!std::isfinite(widen(x)) || !std::isfinite(A(widen(x)) + delta)) continue;
        const A to = moved<T>(widen(x), delta);
        CHECK(exact(narrow<T>(to)) == to);
        CHECK_THAT(to == A(widen(limit_of(x, delta))), "%g + %g = %g, not %g", exact(x), double(delta),
                   double(to), exact(limit_of(x, delta)));
        CHECK(std::fabs(E(to) - E(widen(x))) <= std::fabs(E(delta)));
        CHECK(exact(narrow<T>(moved<T>(widen(x), A(0)))) == exact(x));
    }
}

template <typename T>
void check_type() {
    using A = arithmetic_t<T>;
    const A infinity = std::numeric_limits<A>::infinity();
    expect::Random random;
    check_moved<T>();
    for (const auto& [rows, length] :
         {std::pair<int64_t, int64_t>{1, 1}, {3, 5}, {7, 16}, {2, 257}, {100, 1}, {1, 10000}}) {
        const Case<T> batch(random, rows, length);
        for (const bool per_row : {false, true}) {
            batch.check_projection(per_row, nullptr, A(0), A(1));
            batch.check_projection(per_row, batch.x.data(), A(0), A(1));
            batch.check_projection(per_row, batch.x.data(), A(-0.5), infinity);
            for (const A momentum : {A(0), A(0.25), A(1)}) {
                batch.check_step(per_row, momentum, A(0), A(1));
                batch.check_step(per_row, momentum, -infinity, infinity);
            }
            for (const ParallelFor parallel : {ParallelFor{}, ParallelFor{Threads::run}}) {
                batch.check_gradients(per_row, nullptr, A(0), A(1), parallel);
                batch.check_gradients(per_row, batch.x.data(), A(0), A(1), parallel);
                batch.check_gradients(per_row, batch.x.data(), A(-0.5), infinity, parallel);
            }
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
