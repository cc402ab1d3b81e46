// Iterated local search for a short tour: exchanges of edges, and perturbations of what they end at.
#pragma once

#include <cstdint>
#include <vector>

#include "ordering/nodes.h"
#include "ordering/random.h"
#include "ordering/tour.h"
#include "ordering/watch.h"

namespace integralrob {

// A tour that no sequential exchange of two or three edges shortens in which each new edge but the last leads
// to a near neighbour (2-opt, Or-opt with stretches of any length, and the other 3-opt moves).
class LocalSearch {
  public:
    LocalSearch(const Nodes& nodes, const std::vector<int32_t>& tour, Watch& watch);

    // Perturbs the tour in one place and repairs it; if it has become longer, undoes that. What was gained.
    double kick(Random& random);

    double length() const { return length_; }

    // From the depot on.
    std::vector<int32_t> tour() const;

  private:
    const Nodes& nodes_;
    Watch& watch_;
    Tour tour_;
    double length_;
    // Nodes from which a move may be found: no other's edges have changed since none was.
    std::vector<int32_t> queue_;
    std::vector<char> waiting_;

    template <typename... Node>
    void wake(Node... nodes) {
        (wake_one(nodes), ...);
    }
    void wake_one(int32_t node);

    double improve();
    double shorten_after(int32_t t1);
    double double_bridge(Random& random);
};

}  // namespace integralrob
