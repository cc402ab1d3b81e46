// Steps in the l1 and the l2 ball against simple scalar code: which entries move, where they end, momentum,
// NaN, in place, and any number of threads.
#include <algorithm>
#include <functional>
#include <limits>

#include "expect.h"
#include "projection/projection_kernels.h"
#include "threads.h"

using namespace integralrob;

namespace {

template <typename T>
double unit_of() {
    return std::is_same_v<T, Half> ? 0x1p-11 : sizeof(T) == 2 ? 0x1p-8 : sizeof(T) == 4 ? 0x1p-24 : 0x1p-53;
}

template <typename T>
struct Problem {
    using A = arithmetic_t<T>;
    int norm;
    int64_t length;
    std::vector<T> x_adv, grad, x, previous;
    A eps = 1, size = 0.5, momentum = 0, lo = 0, hi = 1;
    int64_t kept = 1;

    Problem(expect::Random& random, int norm_, int64_t length_) : norm(norm_), length(length_) {
        const auto batch = [&](const std::function<double(double)>& of) {
            return random.numbers<T>(length, [&](double u) { return narrow<T>(static_cast<A>(of(u))); });
        };
        x = batch([](double u) { return 0.5 + 0.5 * u; });
        x_adv = batch([](double u) { return 0.5 + 0.4 * u; });
        previous = batch([](double u) { return 0.5 + 0.4 * u; });
        // Sizes from 2^-12 to 1, some of them 0, some equal to others.
        grad = batch([&](double u) {
            const int64_t kind = random.below(4);
            return kind == 0   ? 0
                   : kind == 1 ? (u > 0 ? 0.25 : -0.25)
                               : std::copysign(std::exp2(-12 * u * u), u);
        });
    }

    std::vector<T> run(ParallelFor parallel = nullptr, bool in_place = false) const {
        std::vector<T> out = x_adv;
        const Step<T> step{in_place ? out.data() : x_adv.data(),
                           grad.data(),
                           x.data(),
                           momentum > 0 ? previous.data() : nullptr,
                           {nullptr, 0, eps},
                           {nullptr, 0, size},
                           {nullptr, 0, kept},
                           momentum,
                           lo,
                           hi,
                           1,
                           length,
                           out.data()};
        if (norm == 1) {
            INTEGRALROB_ON_ISA(l1_step<T>, step, 0, 1, parallel);
        } else {
            INTEGRALROB_ON_ISA(l2_step<T>, step, 0, 1, parallel);
        }
        return out;
    }

    // Of each entry.
    std::vector<long double> move() const {
        std::vector<long double> g(length);
        for (int64_t k = 0; k < length; ++k) g[k] = widen(grad[k]);
        long double total = 0;
        if (norm == 1) {
            std::vector<long double> sizes(length);
            for (int64_t k = 0; k < length; ++k) sizes[k] = std::fabs(g[k]);
            std::sort(sizes.begin(), sizes.end(), std::greater<>());
            const long double least = sizes[std::clamp<int64_t>(kept, 1, length) - 1];
            for (long double& v : g) {
                v = std::fabs(v) < least || v == 0 ? 0 : v > 0 ? 1 : -1;
                total += std::fabs(v);
            }
        } else {
            for (const long double v : g) total += v * v;
            total = std::sqrt(total);
        }
        for (long double& v : g) v = total > 0 ? size * v / total : 0;
        return g;
    }

    // What the ball, and in l1 the box with it, leaves of y.
    std::vector<long double> limited(const std::vector<long double>& y) const {
        std::vector<long double> result(length);
        if (norm == 1) {
            std::vector<A> wide(length), center(length), out(length);
            for (int64_t k = 0; k < length; ++k) {
                wide[k] = static_cast<A>(y[k]);
                center[k] = widen(x[k]);
            }
            INTEGRALROB_ON_ISA(project_l1<A>, wide.data(), center.data(), PerRow<A>{nullptr, 0, eps}, lo, hi,
                               length, out.data(), 0, 1, nullptr);
            std::copy(out.begin(), out.end(), result.begin());
        } else {
            long double squares = 0;
            for (const long double v : y) squares += v * v;
            const long double share = std::min<long double>(1, eps / std::sqrt(squares));
            for (int64_t k = 0; k < length; ++k) result[k] = squares > 0 ? share * y[k] : 0;
        }
        return result;
    }

    std::vector<long double> expected() const {
        std::vector<long double> y = move(), from(length), center(length);
        for (int64_t k = 0; k < length; ++k) {
            from[k] = widen(x_adv[k]);
            center[k] = widen(x[k]);
            y[k] += from[k] - center[k];
        }
        const auto clipped = [&](long double v) { return std::clamp<long double>(v, lo, hi); };
        std::vector<long double> delta = limited(y);
        if (momentum > 0) {
            for (int64_t k = 0; k < length; ++k) {
                const long double z = clipped(center[k] + delta[k]), before = widen(previous[k]);
                y[k] = (from[k] - center[k]) + (1 - momentum) * (z - from[k]) + momentum * (from[k] - before);
            }
            delta = limited(y);
        }
        for (int64_t k = 0; k < length; ++k) delta[k] = clipped(center[k] + delta[k]);
        return delta;
    }

    void check() const {
        const std::vector<T> out = run(), in_place = run(nullptr, true);
        const std::vector<long double> wanted = expected();
        long double ball = 0, largest = 1;  // largest: that a perturbation is on the way
        for (const long double v : move()) largest = std::max(largest, 1 + std::fabs(v));
        bool in_box = true;
        for (int64_t k = 0; k < length; ++k) {
            const long double got = widen(out[k]), center = widen(x[k]), delta = std::fabs(got - center);
            ball += norm == 1 ? delta : delta * delta;
            in_box = in_box && center >= lo && center <= hi;
            const long double rounding = 2 * unit_of<T>() * (1 + delta) + 8 * unit_of<A>() * largest;
            CHECK_THAT(std::fabs(got - wanted[k]) <= rounding,
                       "l%d, %lld entries, kept %lld, momentum %g, entry %lld: %.9Lg, not %.9Lg", norm,
                       (long long)length, (long long)kept, double(momentum), (long long)k, got, wanted[k]);
            CHECK(std::memcmp(&out[k], &in_place[k], sizeof(T)) == 0);
        }
        if (norm == 2) ball = std::sqrt(ball);
        CHECK_THAT(!in_box || ball <= eps * (1 + 2 * static_cast<long double>(unit_of<A>())),
                   "l%d, %lld entries: norm %.12Lg > %.12g", norm, (long long)length, ball, double(eps));
    }
};

template <typename T>
void check_steps() {
    using A = arithmetic_t<T>;
    expect::Random random;
    for (const int norm : {1, 2}) {
        for (const int64_t length : {1, 2, 3, 15, 16, 17, 40, 200, 1000, 4097, 9001}) {
            for (int again = 0; again < 8; ++again) {
                Problem<T> problem(random, norm, length);
                const double diameter = norm == 1 ? length : std::sqrt(length);
                problem.eps = static_cast<A>(diameter * std::fabs(random.number()) / (1 + 9 * (again % 2)));
                problem.size = static_cast<A>(diameter * std::fabs(random.number()));
                problem.momentum = again % 4 < 2 ? A(0) : A(0.25);
                const int64_t counts[] = {0, 1, 1 + random.below(length), length, 2 * length};
                problem.kept = counts[random.below(5)];
                if (again == 7) problem.lo = -std::numeric_limits<A>::infinity(), problem.hi = -problem.lo;
                problem.check();
            }
        }
    }
}

// Of a wide ball, exactly: which entries of a gradient move.
template <typename T>
void check_selection() {
    using A = arithmetic_t<T>;
    expect::Random random;
    for (const int64_t length : {1, 5, 33, 700, 5000}) {
        for (int again = 0; again < 20; ++again) {
            Problem<T> problem(random, 1, length);
            std::fill(problem.x.begin(), problem.x.end(), T{});
            problem.x_adv = problem.x;
            problem.lo = -8, problem.hi = 8, problem.eps = 100, problem.size = 1;
            problem.kept = 1 + random.below(length);
            if (again % 2 == 1) {  // no two alike, of very different sizes
                for (int64_t k = 0; k < length; ++k) {
                    const double number = std::exp2(12 * random.number()) * random.number();
                    problem.grad[k] = narrow<T>(static_cast<A>(number));
                }
            }
            const std::vector<T> out = problem.run();
            const std::vector<long double> move = problem.move();
            for (int64_t k = 0; k < length; ++k) {
                const long double got = widen(out[k]);
                CHECK_THAT((got > 0) == (move[k] > 0) && (got < 0) == (move[k] < 0),
                           "%lld of %lld kept, entry %lld: %Lg, not %Lg", (long long)problem.kept,
                           (long long)length, (long long)k, got, move[k]);
            }
        }
    }
}

template <typename T>
void check_special() {
    using A = arithmetic_t<T>;
    const A nan = std::numeric_limits<A>::quiet_NaN(), infinity = std::numeric_limits<A>::infinity();
    const int64_t length = 40, rows = 3;
    expect::Random random;
    for (const int norm : {1, 2}) {
        for (const bool momentum : {false, true}) {
            for (int which = 0; which < 6; ++which) {  // x_adv, grad, x, previous, eps, size
                for (int64_t position = 0; position < length; position += 3) {
                    const Problem<T> one(random, norm, length);
                    std::vector<T> argument[] = {one.x_adv, one.grad, one.x, one.previous};
                    A eps[] = {1, 1, 1}, size[] = {1, 1, 1};
                    for (std::vector<T>& values : argument) {
                        for (int copy = 1; copy < rows; ++copy) {
                            values.insert(values.end(), values.begin(), values.begin() + length);
                        }
                    }
                    if (which < 4) argument[which][length + position] = narrow<T>(nan);
                    if (which == 4) eps[1] = nan;
                    if (which == 5) size[1] = nan;
                    std::vector<T> out(rows * length);
                    const Step<T> step{argument[0].data(),
                                       argument[1].data(),
                                       argument[2].data(),
                                       momentum ? argument[3].data() : nullptr,
                                       {eps, 1},
                                       {size, 1},
                                       {nullptr, 0, 5},
                                       A(0.25),
                                       A(0),
                                       A(1),
                                       rows,
                                       length,
                                       out.data()};
                    if (norm == 1) {
                        INTEGRALROB_ON_ISA(l1_step<T>, step, 0, rows, nullptr);
                    } else {
                        INTEGRALROB_ON_ISA(l2_step<T>, step, 0, rows, nullptr);
                    }
                    const bool unknown = which != 3 || momentum;
                    for (int64_t k = 0; k < rows * length; ++k) {
                        const bool middle = k / length == 1;
                        CHECK(std::isnan(widen(out[k])) == (middle && unknown));
                        if (!middle) CHECK(std::memcmp(&out[k], &out[k % length], sizeof(T)) == 0);
                    }
                }
            }
            Problem<T> problem(random, norm, length);
            problem.momentum = momentum ? A(0.25) : A(0);
            problem.eps = 0;  // the clean input
            CHECK(std::memcmp(problem.run().data(), problem.x.data(), length * sizeof(T)) == 0);
            problem.eps = infinity;
            problem.check();
            std::fill(problem.grad.begin(), problem.grad.end(), T{});  // nothing to move along
            problem.check();
            problem.grad[7] = narrow<T>(infinity);
            problem.kept = 1;
            const std::vector<T> out = problem.run();
            if (!momentum) CHECK(widen(out[7]) > widen(problem.x_adv[7]) || widen(out[7]) == problem.hi);
            for (const T v : out) CHECK(!std::isnan(widen(v)));
        }
    }
}

template <typename T>
void check_threads() {
    using A = arithmetic_t<T>;
    expect::Random random;
    for (const int norm : {1, 2}) {
        for (const int64_t length : {5000, 70001, 300001}) {
            Problem<T> problem(random, norm, length);
            problem.kept = length / 10;
            problem.eps = static_cast<A>(norm == 1 ? 0.01 * length : 0.1 * std::sqrt(length));
            problem.size = problem.eps;
            problem.momentum = A(0.25);
            const std::vector<T> alone = problem.run();
            for (const int threads : {1, 2, 7}) {
                Threads::count = threads;
                CHECK(std::memcmp(problem.run(Threads::run).data(), alone.data(), length * sizeof(T)) == 0);
            }
        }
    }
}

template <typename T>
void check_type() {
    check_steps<T>();
    check_selection<T>();
    check_special<T>();
    check_threads<T>();
}

}  // namespace

int main() {
    check_type<float>();
    check_type<double>();
    check_type<Half>();
    check_type<BFloat16>();
    return expect::summary();
}
