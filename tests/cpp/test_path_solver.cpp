// The path solver against all permutations and against plain 2-opt, its limits, and the tour that it works
// on.
#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>

#include "expect.h"
#include "ordering/path_solver.h"
#include "ordering/tour.h"

using namespace integralrob;

namespace {

constexpr double kForever = std::numeric_limits<double>::infinity();

struct Points {
    int64_t size;
    std::vector<double> distance;

    Points(int64_t size_, const std::function<double(int64_t, int64_t)>& between)
        : size(size_), distance(size_ * size_) {
        for (int64_t i = 0; i < size; ++i) {
            for (int64_t j = 0; j < i; ++j) distance[i * size + j] = distance[j * size + i] = between(i, j);
        }
    }

    template <typename T>
    double length(const std::vector<T>& path) const {
        double sum = 0;
        for (size_t i = 1; i < path.size(); ++i) sum += distance[path[i - 1] * size + path[i]];
        return sum;
    }

    std::vector<int64_t> in_order() const {
        std::vector<int64_t> path(size);
        std::iota(path.begin(), path.end(), 0);
        return path;
    }

    PathResult solve(uint64_t seed, const PathLimits& limits = {2000, 500, kForever}) const {
        return shortest_path(distance.data(), size, in_order().data(), seed, limits,
                             [](double, double) { return true; });
    }

    double shortest() const {
        std::vector<int64_t> path = in_order();
        double best = length(path);
        while (std::next_permutation(path.begin(), path.end())) best = std::min(best, length(path));
        return best;
    }

    // Any reversal that shortens the path, until there is none; the one that gains most for each first
    // position.
    double two_opt() const {
        std::vector<int64_t> path = in_order();
        const double least = 1e-12 * *std::max_element(distance.begin(), distance.end());
        for (bool improved = true; improved;) {
            improved = false;
            for (int64_t i = 0; i < size; ++i) {
                const auto from = [&](int64_t a, int64_t b) {
                    const bool inside = a >= 0 && b < size;
                    return inside ? distance[path[a] * size + path[b]] : 0.0;
                };
                double most = least;
                int64_t last = i;
                for (int64_t j = i + 1; j < size; ++j) {
                    const double before = i > 0 ? from(i - 1, j) : 0.0;
                    const double gain = from(i - 1, i) + from(j, j + 1) - before - from(i, j + 1);
                    if (gain > most) most = gain, last = j;
                }
                if (last == i) continue;
                std::reverse(path.begin() + i, path.begin() + last + 1);
                improved = true;
            }
        }
        return length(path);
    }
};

template <typename T>
bool is_permutation_of_range(std::vector<T> path, int64_t size) {
    std::sort(path.begin(), path.end());
    for (int64_t i = 0; i < size; ++i) {
        if (path.size() != static_cast<size_t>(size) || path[i] != i) return false;
    }
    return true;
}

// Points in a space of so many dimensions.
Points cloud(expect::Random& random, int64_t size, int64_t dimensions) {
    std::vector<double> x(size * dimensions);
    for (double& value : x) value = random.number();
    return {size, [&](int64_t i, int64_t j) {
                double squares = 0;
                for (int64_t k = 0; k < dimensions; ++k) {
                    squares += std::pow(x[i * dimensions + k] - x[j * dimensions + k], 2);
                }
                return std::sqrt(squares);
            }};
}

void check_against_all_permutations() {
    expect::Random random;
    for (int round = 0; round < 40; ++round) {
        for (int64_t size = 0; size <= 7; ++size) {
            // Euclidean; any numbers, which obey no triangle inequality; and few different ones, with many
            // ties.
            const Points cases[] = {
                cloud(random, size, 2),
                {size, [&](int64_t, int64_t) { return std::fabs(random.number()); }},
                {size, [&](int64_t, int64_t) { return static_cast<double>(random.below(3)); }},
            };
            for (const Points& points : cases) {
                const PathResult result = points.solve(round);
                CHECK(is_permutation_of_range(result.path, size));
                CHECK_THAT(std::fabs(result.length - points.length(result.path)) < 1e-12, "%g, not %g",
                           result.length, points.length(result.path));
                CHECK_THAT(result.length <= points.shortest() + 1e-12, "%d points: %g, not %g",
                           static_cast<int>(size), result.length, points.shortest());
            }
        }
    }
}

void check_against_two_opt() {
    expect::Random random;
    for (int round = 0; round < 100; ++round) {
        const int64_t size = 3 + random.below(80);
        const Points points = cloud(random, size, 1 + random.below(6));
        const double bound = points.two_opt() * (1 + 1e-12);
        for (const int64_t kicks : {0, 100}) {
            const PathResult result = points.solve(round, {kicks, kicks, kForever});
            CHECK(is_permutation_of_range(result.path, size));
            CHECK_THAT(result.length <= bound, "%.17g > %.17g", result.length, bound);
        }
    }
}

void check_limits() {
    expect::Random random;
    const Points points = cloud(random, 200, 5);
    CHECK(points.solve(3).path == points.solve(3).path);
    CHECK(points.solve(3).path != points.solve(4).path);
    CHECK(points.solve(0, {70, 1000, kForever}).kicks == 70);
    const PathResult converged = points.solve(0, {1000000, 50, kForever});
    CHECK(converged.kicks >= 50 && converged.kicks < 1000000);
    const PathResult no_time = points.solve(0, {1000000, 1000000, 0});
    CHECK(no_time.kicks == 0 && is_permutation_of_range(no_time.path, points.size));
    CHECK(no_time.length <= points.length(points.in_order()));

    // Stopped from outside, with the path that was told of.
    int calls = 0;
    double told = kForever, last_seconds = -1;
    const auto path = points.in_order();
    const PathResult stopped =
        shortest_path(points.distance.data(), points.size, path.data(), 0, {1 << 30, 1 << 30, kForever},
                      [&](double seconds, double length) {
                          CHECK(seconds > last_seconds && length <= told * (1 + 1e-12));
                          last_seconds = seconds;
                          told = length;
                          return ++calls < 4;
                      });
    CHECK(calls == 4);
    CHECK_THAT(std::fabs(stopped.length - told) <= 1e-9 * told, "%g, not %g", stopped.length, told);
    CHECK(is_permutation_of_range(stopped.path, points.size));
}

// Against a list in which the same is done with std::reverse.
void check_tour() {
    expect::Random random;
    for (const int32_t size : {2, 3, 4, 9, 20}) {
        std::vector<int32_t> list(size);
        std::iota(list.begin(), list.end(), 0);
        Tour tour(list);
        std::vector<int32_t> kept = list;
        for (int round = 0; round < 2000; ++round) {
            const int64_t choice = random.below(12);
            if (choice == 0) {
                tour.keep();
                kept = list;
            } else if (choice == 1) {
                tour.undo();
                list = kept;
            } else if (choice == 2) {
                tour.turn();
                std::reverse(list.begin(), list.end());
                tour.keep();
                kept = list;
            } else {
                std::rotate(list.begin(), list.begin() + random.below(size), list.end());
                const int64_t last = random.below(size);
                tour.reverse(list[0], list[last]);
                std::reverse(list.begin(), list.begin() + last + 1);
            }
            const int64_t a = random.below(size), b = random.below(size), c = random.below(size);
            const int64_t to_b = (b - a + size) % size, to_c = (c - a + size) % size;
            CHECK(tour.between(list[a], list[b], list[c]) == (to_b <= to_c));
            for (int32_t i = 0; i < size; ++i) {
                CHECK(tour.next(list[i]) == list[(i + 1) % size]);
                CHECK(tour.previous(list[(i + 1) % size]) == list[i]);
            }
        }
    }
}

}  // namespace

int main() {
    check_tour();
    check_against_all_permutations();
    check_against_two_opt();
    check_limits();
    return expect::summary();
}
