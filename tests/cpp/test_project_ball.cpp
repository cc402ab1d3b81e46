// Projections onto the l1 and the l2 ball within a box, and their derivatives, against sums over sorted
// breakpoints and against formulas written out, hostile rows, NaN and infinities, and any number of threads.
#include <algorithm>
#include <limits>
#include <string>

#include "expect.h"
#include "projection/ball_search.h"
#include "projection/projection_kernels.h"
#include "threads.h"

using namespace integralrob;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <typename T>
std::vector<double> widened(const std::vector<T>& x) {
    std::vector<double> result;
    for (const T v : x) result.push_back(widen(v));
    return result;
}

template <typename T>
std::vector<T> narrowed(const std::vector<double>& x) {
    std::vector<T> result;
    for (const double v : x) result.push_back(narrow<T>(static_cast<arithmetic_t<T>>(v)));
    return result;
}

// One row and its projection.
template <typename T>
struct Problem {
    using A = arithmetic_t<T>;
    int norm;
    std::vector<T> y, center;  // center is empty without a box
    A eps, lo = 0, hi = 1;

    const T* box() const { return center.empty() ? nullptr : center.data(); }
    int64_t length() const { return static_cast<int64_t>(y.size()); }

    std::vector<T> project(ParallelFor parallel = nullptr) const {
        std::vector<T> out(y.size());
        const PerRow<A> radius{nullptr, 0, eps};
        if (norm == 1) {
            INTEGRALROB_ON_ISA(project_l1<T>, y.data(), box(), radius, lo, hi, length(), out.data(), 0, 1,
                               parallel);
        } else {
            INTEGRALROB_ON_ISA(project_l2<T>, y.data(), box(), radius, lo, hi, length(), out.data(), 0, 1,
                               parallel);
        }
        return out;
    }

    // a and b in double, as exact as the type of the arithmetic makes b.
    std::vector<double> sizes() const {
        std::vector<double> a;
        for (const T v : y) a.push_back(std::fabs(static_cast<double>(widen(v))));
        return a;
    }
    std::vector<double> limits() const {
        std::vector<double> b(y.size(), kInfinity);
        if (!center.empty()) {
            for (size_t i = 0; i < b.size(); ++i) {
                const A c = widen(center[i]);
                b[i] = widen(y[i]) > 0 ? std::max<A>(hi - c, 0) : std::max<A>(c - lo, 0);
            }
        }
        return b;
    }

    long double norm_at(const std::vector<double>& a, const std::vector<double>& b, double x) const {
        long double sum = 0;
        for (size_t i = 0; i < a.size(); ++i) {
            if (norm == 1) {
                sum += std::clamp(static_cast<long double>(a[i]) - x, 0.0L, static_cast<long double>(b[i]));
            } else {
                const long double m = std::min<long double>(static_cast<long double>(x) * a[i], b[i]);
                sum += m * m;
            }
        }
        return sum;
    }

    // Magnitudes: between which neighbours among the sorted breakpoints the root is, then the formula of that
    // piece.
    std::vector<long double> expected() const {
        const std::vector<double> a = sizes(), b = limits();
        const long double target =
            norm == 1 ? static_cast<long double>(eps) : static_cast<long double>(eps) * eps;
        const double start = norm == 1 ? 0 : 1;
        std::vector<long double> m(a.size());
        if (norm_at(a, b, start) <= target) {
            for (size_t i = 0; i < a.size(); ++i) m[i] = std::min(a[i], b[i]);
            return m;
        }
        std::vector<double> points = {0};
        for (size_t i = 0; i < a.size(); ++i) {
            if (norm == 1) {
                points.push_back(a[i]);
                if (a[i] > b[i]) points.push_back(a[i] - b[i]);
            } else if (a[i] > b[i]) {
                points.push_back(b[i] / a[i]);
            }
        }
        std::sort(points.begin(), points.end());
        // Norms fall along the points in l1 and rise in l2: the last point on the start's side of the root.
        size_t low = 0, high = points.size();
        while (high - low > 1) {
            const size_t middle = (low + high) / 2;
            const bool outside = norm_at(a, b, points[middle]) > target;
            (outside == (norm == 1) ? low : high) = middle;
        }
        const double inner = high < points.size() ? 0.5 * (points[low] + points[high])
                             : norm == 1          ? points[low]
                                                  : 0.5 * (points[low] + 1);
        long double fixed = 0, free = 0;
        for (size_t i = 0; i < a.size(); ++i) {
            const bool clipped = norm == 1 ? a[i] - inner >= b[i] : inner * a[i] >= b[i];
            const long double limit = b[i];
            if (clipped) {
                fixed += norm == 1 ? limit : limit * limit;
            } else if (norm == 2) {
                free += static_cast<long double>(a[i]) * a[i];
            } else if (a[i] > inner) {
                fixed += a[i];
                free += 1;
            }
        }
        const long double x = norm == 1 ? (free > 0 ? (fixed - target) / free : points[low])
                                        : std::sqrt((target - fixed) / free);
        for (size_t i = 0; i < a.size(); ++i) {
            m[i] = norm == 1 ? std::clamp<long double>(a[i] - x, 0, b[i])
                             : std::min<long double>(x * a[i], b[i]);
        }
        return m;
    }

    void check(const std::string& what) const {
        const std::vector<T> out = project();
        const std::vector<double> a = sizes(), b = limits();
        const std::vector<long double> m = expected();
        const double unit = sizeof(A) == 4 ? 0x1p-24 : 0x1p-53;
        const double storage = sizeof(T) == 2 ? (std::is_same_v<T, Half> ? 0x1p-10 : 0x1p-7) : 2 * unit;
        const double subnormal = std::is_same_v<T, Half> ? 0x1p-24 : 0;
        double greatest = 0;
        for (const double v : a) greatest = std::max(greatest, v);
        // θ is found to a part of 2^-46 in float32, and to a rounding in float64
        const double absolute = norm == 1 ? greatest * (sizeof(A) == 4 ? 0x1p-43 : 0x1p-49) : 0;
        long double sum = 0;
        for (size_t i = 0; i < a.size(); ++i) {
            const long double got = std::fabs(static_cast<long double>(widen(out[i])));
            sum += norm == 1 ? got : got * got;
            CHECK_THAT(std::fabs(got - m[i]) <= 8 * (storage * m[i] + unit * eps) + absolute + subnormal,
                       "%s l%d, %zu entries, eps %g, entry %zu: %.9Lg, not %.9Lg", what.c_str(), norm,
                       a.size(), double(eps), i, got, m[i]);
            CHECK_THAT(got <= b[i] && got <= a[i], "%s l%d: entry %zu leaves the box", what.c_str(), norm, i);
            CHECK(std::signbit(widen(out[i])) == std::signbit(widen(y[i])));
        }
        const long double length = norm == 1 ? sum : std::sqrt(sum);
        CHECK_THAT(length <= eps * (1 + 2 * static_cast<long double>(unit)),
                   "%s l%d, %zu entries: norm %.12Lg > %.12g", what.c_str(), norm, a.size(), length,
                   double(eps));
        Problem again = *this;
        again.y = out;
        const std::vector<T> twice = again.project();
        for (size_t i = 0; i < a.size(); ++i) {
            CHECK(std::fabs(double(widen(twice[i])) - widen(out[i])) <=
                  4 * (storage * m[i] + unit * eps) + subnormal);
        }
    }
};

const char* const kKinds[] = {"uniform",  "zeros",     "ties",      "sparse", "heavy-tailed", "steps",
                              "clusters", "geometric", "two sizes", "huge",   "tiny"};

double number(expect::Random& random, const std::string& kind) {
    const double u = random.number(), sign = random.number() > 0 ? 1 : -1;
    if (kind == "zeros") return 0;
    if (kind == "ties") return sign;
    if (kind == "sparse") return random.below(20) == 0 ? u : 0;
    if (kind == "heavy-tailed") return u / (std::fabs(random.number()) + 1e-4);
    if (kind == "steps") return sign * static_cast<double>(1 + random.below(3));
    if (kind == "clusters") return sign * (0.25 * static_cast<double>(1 + random.below(4)) + 1e-6 * u);
    if (kind == "geometric") return sign * std::exp2(-14 * std::fabs(u));
    if (kind == "two sizes") return random.below(2) == 0 ? 1e-3 * u : 1 + std::fabs(u);
    if (kind == "huge") return 1e4 * u;
    if (kind == "tiny") return 1e-3 * u;
    return u;
}

template <typename T>
Problem<T> random_problem(expect::Random& random, const std::string& kind, int norm, int64_t length,
                          bool box) {
    std::vector<double> y(length), c(box ? length : 0);
    double l1 = 0, l2 = 0;
    for (double& x : y) {
        x = number(random, kind);
        l1 += std::fabs(x);
        l2 += x * x;
    }
    for (double& x : c) {  // some at a limit, some beyond it
        x = random.below(4) == 0 ? static_cast<double>(random.below(2)) : 0.5 + 0.55 * random.number();
    }
    const double share = std::pow(std::fabs(random.number()), 1 + static_cast<double>(random.below(6)));
    const double eps = random.below(12) == 0 ? 0 : share * (norm == 1 ? l1 : std::sqrt(l2));
    return {norm, narrowed<T>(y), narrowed<T>(c), static_cast<arithmetic_t<T>>(eps)};
}

template <typename T>
void check_projections() {
    expect::Random random;
    for (const char* kind : kKinds) {
        for (const int norm : {1, 2}) {
            for (const bool box : {false, true}) {
                for (int64_t length = 1; length <= 100; ++length) {
                    random_problem<T>(random, kind, norm, length, box).check(kind);
                }
                for (const int64_t length : {255, 1000, 4096, 4097, 20000}) {
                    random_problem<T>(random, kind, norm, length, box).check(kind);
                }
            }
        }
    }
}

// Rows that are inside come back as they are, with every bit, whatever the radius.
template <typename T>
void check_inside() {
    using A = arithmetic_t<T>;
    const A infinity = std::numeric_limits<A>::infinity();
    const std::vector<T> y = narrowed<T>({0.0, -0.0, 1e-7, -0.25, 3.0, -kInfinity});
    for (const int norm : {1, 2}) {
        const Problem<T> problem{norm, y, {}, infinity};
        const std::vector<T> out = problem.project();
        CHECK(std::memcmp(out.data(), y.data(), y.size() * sizeof(T)) == 0);
        const Problem<T> small{norm, {y.begin(), y.end() - 1}, {}, A(8)};
        CHECK(std::memcmp(small.project().data(), y.data(), (y.size() - 1) * sizeof(T)) == 0);
    }
}

template <typename T>
void check_special() {
    using A = arithmetic_t<T>;
    const A nan = std::numeric_limits<A>::quiet_NaN(), infinity = std::numeric_limits<A>::infinity();
    const int64_t length = 40, rows = 3;
    for (const int norm : {1, 2}) {
        for (const A eps : {A(0.5), A(100), A(0), A(-1), infinity, nan}) {
            for (int64_t position = 0; position < length; position += 3) {
                for (const A value : {nan, infinity, -infinity}) {
                    for (const int which : {0, 1, 2}) {  // y, center, y without a box
                        std::vector<T> argument[] = {std::vector<T>(rows * length, narrow<T>(A(0.7))),
                                                     std::vector<T>(rows * length, narrow<T>(A(0.5)))};
                        argument[which % 2][length + position] = narrow<T>(value);
                        const T* center = which == 2 ? nullptr : argument[1].data();
                        const A radii[] = {A(1), eps, A(1)};
                        std::vector<T> out(rows * length);
                        if (norm == 1) {
                            INTEGRALROB_ON_ISA(project_l1<T>, argument[0].data(), center, PerRow<A>{radii, 1},
                                               A(0), A(1), length, out.data(), 0, rows, nullptr);
                        } else {
                            INTEGRALROB_ON_ISA(project_l2<T>, argument[0].data(), center, PerRow<A>{radii, 1},
                                               A(0), A(1), length, out.data(), 0, rows, nullptr);
                        }
                        const bool unknown = std::isnan(value) || std::isnan(eps);
                        for (int64_t k = 0; k < rows * length; ++k) {
                            const bool middle = k / length == 1;
                            CHECK(std::isnan(widen(out[k])) == (middle && unknown));
                            if (!middle) CHECK(std::memcmp(&out[k], &out[0], sizeof(T)) == 0);
                        }
                        if (unknown || which == 1) continue;
                        // An infinite entry has all of the ball that the box leaves it.
                        const A all = std::min(std::max(eps, A(0)), which == 0 ? A(0.5) : infinity);
                        const A got = std::fabs(widen(out[length + position]));
                        CHECK_THAT(std::fabs(got - all) <= A(0.01) * all || got == all,
                                   "l%d eps %g: %g, not %g", norm, double(eps), double(got), double(all));
                    }
                }
            }
        }
    }
}

template <typename T>
void check_threads() {
    expect::Random random;
    for (const int norm : {1, 2}) {
        for (const int64_t length : {5000, 70001, 300001}) {
            const Problem<T> problem = random_problem<T>(random, "uniform", norm, length, true);
            const std::vector<T> alone = problem.project();
            for (const int threads : {1, 2, 7}) {
                Threads::count = threads;
                CHECK(std::memcmp(problem.project(Threads::run).data(), alone.data(), length * sizeof(T)) ==
                      0);
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------- derivatives

template <typename T>
struct Gradients {
    using A = arithmetic_t<T>;
    std::vector<T> delta, center;
    A eps;

    Gradients(const Problem<T>& problem, const std::vector<T>& grad, const std::vector<T>& result,
              ParallelFor parallel = nullptr)
        : delta(grad.size()), center(problem.center.size()) {
        const PerRow<A> radius{nullptr, 0, problem.eps};
        T* const of_center = center.empty() ? nullptr : center.data();
        if (problem.norm == 1) {
            INTEGRALROB_ON_ISA(project_l1_backward<T>, grad.data(), problem.y.data(), result.data(), radius,
                               problem.box(), problem.lo, problem.hi, problem.length(), delta.data(), &eps,
                               of_center, 0, 1, parallel);
        } else {
            INTEGRALROB_ON_ISA(project_l2_backward<T>, grad.data(), problem.y.data(), result.data(), radius,
                               problem.box(), problem.lo, problem.hi, problem.length(), delta.data(), &eps,
                               of_center, 0, 1, parallel);
        }
    }
};

// Against differences of projections in float64.
void check_differences() {
    expect::Random random;
    for (const int norm : {1, 2}) {
        for (const bool box : {false, true}) {
            for (const double share : {0.1, 0.4, 2.0}) {
                for (const int64_t length : {1, 2, 9, 40}) {
                    Problem<double> problem = random_problem<double>(random, "uniform", norm, length, box);
                    for (double& c : problem.center) c = 0.5 + 0.45 * random.number();
                    problem.eps = share * static_cast<double>(norm == 1 ? length : 1);
                    const std::vector<double> grad =
                        random.numbers<double>(length, [](double x) { return x; });
                    const Gradients<double> got(problem, grad, problem.project());
                    const auto along = [&](double& x) {
                        const double step = 1e-7, before = x;
                        double sums[2];
                        for (const int side : {0, 1}) {
                            x = before + (side ? step : -step);
                            const std::vector<double> out = problem.project();
                            sums[side] = 0;
                            for (int64_t i = 0; i < length; ++i) sums[side] += grad[i] * out[i];
                        }
                        x = before;
                        return (sums[1] - sums[0]) / (2 * step);
                    };
                    const auto check = [&](const char* what, double value, double difference) {
                        CHECK_THAT(std::fabs(value - difference) <= 1e-6,
                                   "l%d of %s, %lld entries, eps %g: %g, not %g", norm, what,
                                   (long long)length, problem.eps, value, difference);
                    };
                    check("eps", got.eps, along(problem.eps));
                    for (int64_t i = 0; i < length; ++i) {
                        check("delta", got.delta[i], along(problem.y[i]));
                        if (box) check("center", got.center[i], along(problem.center[i]));
                    }
                }
            }
        }
    }
}

// Against float64, and with any number of threads.
template <typename T>
void check_gradients() {
    expect::Random random;
    for (const int norm : {1, 2}) {
        for (const bool box : {false, true}) {
            for (const int64_t length : {1, 3, 100, 513, 9001}) {
                Problem<T> problem = random_problem<T>(random, "uniform", norm, length, box);
                problem.lo = -1, problem.hi = 2;  // no limit between a half type's numbers
                const std::vector<T> result = problem.project(), grad = narrowed<T>(random.numbers<double>(
                                                                     length, [](double x) { return x; }));
                const Gradients<T> got(problem, grad, result);
                const Problem<double> exact{
                    norm, widened(problem.y), widened(problem.center), problem.eps, -1, 2};
                const Gradients<double> expected(exact, widened(grad), widened(result));
                const double unit = sizeof(T) == 2 ? (std::is_same_v<T, Half> ? 0x1p-10 : 0x1p-7) : 0x1p-21;
                for (int64_t i = 0; i < length; ++i) {
                    CHECK(std::fabs(widen(got.delta[i]) - expected.delta[i]) <= unit);
                    if (box) CHECK(std::fabs(widen(got.center[i]) - expected.center[i]) <= unit);
                }
                CHECK(std::fabs(got.eps - expected.eps) <= 0x1p-18 * (1 + std::fabs(expected.eps)));
                for (const int threads : {2, 5}) {
                    Threads::count = threads;
                    const Gradients<T> same(problem, grad, result, Threads::run);
                    CHECK(std::memcmp(same.delta.data(), got.delta.data(), length * sizeof(T)) == 0);
                    CHECK(same.eps == got.eps);
                }
            }
        }
    }
}

// One pass after the other over nothing but flat parts: the search ends.
void check_search_ends() {
    for (const double root : {1e-300, 1e-30, 0.3, 1.0, 1e30, 1e300}) {
        L1Search<double> search(1.0, 1.7e308);
        int passes = 0;
        for (; !search.found && passes < 1000; ++passes) search.update(search.at < root ? 2.0 : 0.5, 0);
        CHECK_THAT(search.found && passes < 200, "%d passes", passes);
        CHECK(search.at >= root && search.at <= root * (1 + 1e-14));
    }
}

// How many passes a search from its start takes, over rows of every kind. (The kernels begin at the answer of
// a sample, and take fewer.)
template <typename A>
class Passes {
  public:
    static constexpr int kMost = 32;

    void check() {
        for (int round = 0; round < 240; ++round) {
            for (const char* kind : kKinds) {
                for (const int norm : {1, 2}) {
                    for (const bool box : {false, true}) {
                        const int64_t length = 1 + random_.below(random_.below(4) == 0 ? 600 : 60);
                        for (int again = 0; again < 10; ++again) {
                            count(random_problem<A>(random_, kind, norm, length, box));
                        }
                    }
                }
            }
        }
        CHECK_THAT(most_[0] <= kMost && most_[1] <= kMost, "%d and %d passes", most_[0], most_[1]);
    }

    void print() const {
        for (const int norm : {1, 2}) {
            std::printf("float%d, l%d:", int(8 * sizeof(A)), norm);
            int64_t rows = 0;
            for (const int64_t n : rows_[norm - 1]) rows += n;
            for (int n = 0; n <= most_[norm - 1]; ++n) {
                std::printf(" %d: %.3f%%", n, 100.0 * rows_[norm - 1][n] / rows);
            }
            std::printf(" of %lld rows\n", (long long)rows);
        }
    }

  private:
    expect::Random random_;
    int64_t rows_[2][200] = {};
    int most_[2] = {};

    void count(const Problem<A>& problem) {
        const std::vector<double> sizes = problem.sizes(), limits = problem.limits();
        std::vector<A> a(sizes.begin(), sizes.end()), b(limits.begin(), limits.end());
        A largest = 0, moving = 0, reaching = 0;
        for (size_t i = 0; i < a.size(); ++i) {
            if (problem.norm == 1) b[i] = std::min(b[i], problem.eps);
            largest = std::max(largest, a[i]);
            if (b[i] > 0) moving = std::max(moving, a[i]);
            if (b[i] >= problem.eps) reaching = std::max(reaching, a[i]);
        }
        if (problem.norm == 1) {
            L1Search<A> search(problem.eps, moving, reaching);
            search_with(1, search, [&] {
                const Threshold<A> threshold = search.threshold();
                CompensatedSum<double> sum;
                double free = 0;
                for (size_t i = 0; i < a.size(); ++i) {
                    const A x = threshold(a[i], b[i]);
                    sum.add(x);
                    free += x > 0 && x < b[i];
                }
                search.update(sum.value(), free);
            });
        } else {
            L2Search<A> search(problem.eps, largest);
            const double unit = L2Search<A>::square_unit(problem.eps);
            search_with(2, search, [&] {
                const Factor<A> factor = search.factor();
                CompensatedSum<double> free, clipped;
                for (size_t i = 0; i < a.size(); ++i) {
                    const A x = factor(a[i], b[i]);
                    (x < b[i] ? free : clipped).add(L2Search<A>::square(x, unit));
                }
                search.update(free.value(), clipped.value());
            });
        }
    }

    template <typename Search, typename Pass>
    void search_with(int norm, const Search& search, const Pass& pass) {
        int passes = 0;
        for (; !search.found && passes < 199; ++passes) pass();
        ++rows_[norm - 1][passes];
        most_[norm - 1] = std::max(most_[norm - 1], passes);
    }
};

template <typename A>
void check_passes(bool print) {
    Passes<A> passes;
    passes.check();
    if (print) passes.print();
}

template <typename T>
void check_type() {
    check_projections<T>();
    check_inside<T>();
    check_special<T>();
    check_threads<T>();
    check_gradients<T>();
}

}  // namespace

// With an argument: prints the distribution of the number of passes.
int main(int arguments, char**) {
    check_passes<float>(arguments > 1);
    check_passes<double>(arguments > 1);
    check_type<float>();
    check_type<double>();
    check_type<Half>();
    check_type<BFloat16>();
    check_differences();
    check_search_ends();
    return expect::summary();
}
