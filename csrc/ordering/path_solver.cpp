#include "ordering/path_solver.h"

#include <algorithm>

#include "ordering/local_search.h"
#include "ordering/nodes.h"
#include "ordering/random.h"
#include "ordering/watch.h"

namespace integralrob {
namespace {

// For each position in turn the reversal that begins there and gains most, until none gains. `tour` begins
// with the depot.
void two_opt(const Nodes& nodes, std::vector<int32_t>& tour, Watch& watch) {
    const int32_t size = nodes.size();
    double length = nodes.length(tour);
    tour.push_back(nodes.depot());
    std::vector<double> edges(size);  // edges[i] joins positions i and i + 1
    for (int32_t i = 0; i < size; ++i) edges[i] = nodes.distance(tour[i], tour[i + 1]);
    for (bool improved = true; improved;) {
        improved = false;
        for (int32_t i = 1; i < size - 1 && !watch.stop(length); ++i) {
            // Reversing positions i..j replaces the edges (i-1, i) and (j, j+1) by (i-1, j) and (i, j+1).
            const double *from_before = nodes.row(tour[i - 1]), *from_first = nodes.row(tour[i]);
            double most = nodes.least_gain();
            int32_t last = 0;
            for (int32_t j = i + 1; j < size; ++j) {
                const double gain = edges[i - 1] + edges[j] - from_before[tour[j]] - from_first[tour[j + 1]];
                if (gain > most) {
                    most = gain;
                    last = j;
                }
            }
            if (last == 0) continue;
            std::reverse(&tour[i], &tour[last] + 1);
            for (int32_t k = i - 1; k <= last; ++k) edges[k] = nodes.distance(tour[k], tour[k + 1]);
            length -= most;
            improved = true;
        }
    }
    tour.pop_back();
}

PathResult without_depot(const Nodes& nodes, const std::vector<int32_t>& tour, int64_t kicks) {
    return {{tour.begin() + 1, tour.end()}, nodes.length(tour), kicks};
}

}  // namespace

PathResult shortest_path(const double* distance, int64_t size, const int64_t* start, uint64_t seed,
                         const PathLimits& limits, const KeepGoing& keep_going) {
    const Nodes nodes(distance, size);
    Watch watch(limits.seconds, keep_going);
    std::vector<int32_t> tour{nodes.depot()};
    for (int64_t i = 0; i < size; ++i) tour.push_back(static_cast<int32_t>(start[i]));
    if (size < 3) return without_depot(nodes, tour, 0);  // all paths are equally long
    two_opt(nodes, tour, watch);

    LocalSearch search(nodes, tour, watch);
    Random random(seed);
    int64_t kicks = 0, stalled = 0;
    while (kicks < limits.kicks && stalled < limits.stall && !watch.stop(search.length())) {
        stalled = search.kick(random) > nodes.least_gain() ? 0 : stalled + 1;
        ++kicks;
    }
    const std::vector<int32_t> found = search.tour();
    // Longer by rounding, if at all.
    return without_depot(nodes, nodes.length(found) < nodes.length(tour) ? found : tour, kicks);
}

}  // namespace integralrob
