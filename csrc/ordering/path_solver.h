// A short open path through all points, given their distances: 2-opt, then iterated local search.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace integralrob {

struct PathLimits {
    int64_t kicks;   // perturbations at most,
    int64_t stall;   // and those in a row that shorten nothing
    double seconds;  // of wall-clock time; infinity for none
};

struct PathResult {
    std::vector<int32_t> path;  // position -> point
    double length;
    int64_t kicks;
};

// Asked every 50 ms or so, with the seconds since the start and the length of the best path: whether to go
// on.
using KeepGoing = std::function<bool(double seconds, double length)>;

// `distance[size, size]`: finite, not negative; of [i, j] and [j, i] the mean is taken. `start[size]`: a
// permutation.
//
// The result is never longer than `start`; nor than what 2-opt makes of `start`, from which the search goes
// on, unless the time limit or `keep_going` ends it before that. It depends on nothing but the arguments,
// unless one of those two ends it. Memory: that of the distances once more.
PathResult shortest_path(const double* distance, int64_t size, const int64_t* start, uint64_t seed,
                         const PathLimits& limits, const KeepGoing& keep_going);

}  // namespace integralrob
