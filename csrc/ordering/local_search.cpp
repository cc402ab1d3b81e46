#include "ordering/local_search.h"

#include <algorithm>

namespace integralrob {
namespace {

// Nodes in each of the stretches that a kick exchanges, at most: long ones cost more to exchange, and more to
// undo.
constexpr int32_t kKickLength = 25;

}  // namespace

LocalSearch::LocalSearch(const Nodes& nodes, const std::vector<int32_t>& tour, Watch& watch)
    : nodes_(nodes), watch_(watch), tour_(tour), length_(nodes.length(tour)), waiting_(nodes.size(), false) {
    for (const int32_t node : tour) wake(node);
    length_ -= improve();
    tour_.keep();
}

double LocalSearch::kick(Random& random) {
    const double gain = double_bridge(random) + improve();
    if (gain < 0) {
        tour_.undo();
        return 0;
    }
    tour_.keep();
    length_ -= gain;
    return gain;
}

std::vector<int32_t> LocalSearch::tour() const {
    std::vector<int32_t> result(nodes_.size());
    int32_t node = nodes_.depot();
    for (int32_t& place : result) {
        place = node;
        node = tour_.next(node);
    }
    return result;
}

void LocalSearch::wake_one(int32_t node) {
    if (!waiting_[node]) {
        waiting_[node] = true;
        queue_.push_back(node);
    }
}

double LocalSearch::improve() {
    double gain = 0;
    while (!queue_.empty() && !watch_.stop(length_)) {
        const int32_t node = queue_.back();
        queue_.pop_back();
        waiting_[node] = false;
        for (int direction = 0; direction < 2; ++direction) {
            while (const double step = shorten_after(node)) gain += step;
            tour_.turn();
        }
    }
    return gain;
}

// Exchanges edges (t1, t2), (t3, t4) and perhaps (t5, t6), where t2 follows t1, for (t2, t3), (t4, t1) or
// (t2, t3), (t4, t5), (t6, t1), and tells what that gains; 0 if no such exchange shortens the tour. Every
// gainful exchange can be begun so that what has been taken away always exceeds what has been put in: the
// rest is not looked at.
double LocalSearch::shorten_after(int32_t t1) {
    const double least = nodes_.least_gain();
    const int32_t t2 = tour_.next(t1);
    const double* d1 = nodes_.row(t1);
    const double d12 = d1[t2];
    for (const auto& [t3, d23] : nodes_.neighbours(t2)) {
        const double gain1 = d12 - d23;
        if (gain1 <= least) break;
        if (t3 == tour_.next(t2)) continue;
        const double* d3 = nodes_.row(t3);
        {
            // t2 .. t4 t3 .. t1: a path that begins at t4 once t2 .. t4 is reversed.
            const int32_t t4 = tour_.previous(t3);
            const double gain2 = gain1 + d3[t4];
            if (gain2 - d1[t4] > least) {
                tour_.reverse(t2, t4);
                wake(t1, t2, t3, t4);
                return gain2 - d1[t4];
            }
            for (const auto& [t5, d45] : nodes_.neighbours(t4)) {
                const double gain3 = gain2 - d45;
                if (gain3 <= least) break;
                if (t5 == t3 || t5 == t1) continue;
                // The one before t5 on the path from t4.
                const int32_t t6 = tour_.between(t2, t5, t4) ? tour_.next(t5) : tour_.previous(t5);
                const double gain = gain3 + nodes_.distance(t5, t6) - d1[t6];
                if (t6 == t4 || gain <= least) continue;
                tour_.reverse(t2, t4);
                tour_.reverse(t4, t6);
                wake(t1, t2, t3, t4, t5, t6);
                return gain;
            }
        }
        // t2 .. t3 t4 .. t1: a cycle t2 .. t3 and a path t4 .. t1, joined where an edge of the cycle is taken
        // away.
        const int32_t t4 = tour_.next(t3);
        const double gain2 = gain1 + d3[t4];
        for (const auto& [t5, d45] : nodes_.neighbours(t4)) {
            const double gain3 = gain2 - d45;
            if (gain3 <= least) break;
            if (t5 == t3 || !tour_.between(t2, t5, t3)) continue;
            const double* d5 = nodes_.row(t5);
            const int32_t after = tour_.next(t5), before = tour_.previous(t5);
            if (const double gain = gain3 + d5[after] - d1[after]; gain > least) {
                tour_.reverse(t2, t3);  // t2 .. t5 t6 .. t3 becomes t6 .. t3 t2 .. t5
                tour_.reverse(t3, after);
                tour_.reverse(t5, t2);
                wake(t1, t2, t3, t4, t5, after);
                return gain;
            }
            if (const double gain = gain3 + d5[before] - d1[before]; t5 != t2 && gain > least) {
                tour_.reverse(t2, before);  // t2 .. t6 t5 .. t3 becomes t6 .. t2 t3 .. t5
                tour_.reverse(t5, t3);
                wake(t1, t2, t3, t4, t5, before);
                return gain;
            }
        }
    }
    return 0;
}

// Three short stretches in a row change places, A B C -> C B A: an exchange of four edges that is not
// sequential, so that the search is unlikely to undo it. What it gains, mostly less than nothing.
double LocalSearch::double_bridge(Random& random) {
    const int32_t longest = std::min(kKickLength, (nodes_.size() - 1) / 3);
    const int32_t before = random.below(nodes_.size());
    struct {
        int32_t first, last;
    } a, b, c;
    int32_t node = before;
    for (auto* stretch : {&a, &b, &c}) {
        node = stretch->first = tour_.next(node);
        for (int32_t more = random.below(longest); more > 0; --more) node = tour_.next(node);
        stretch->last = node;
    }
    const int32_t after = tour_.next(node);
    const auto d = [this](int32_t i, int32_t j) { return nodes_.distance(i, j); };
    const double gain = d(before, a.first) + d(a.last, b.first) + d(b.last, c.first) + d(c.last, after) -
                        (d(before, c.first) + d(c.last, b.first) + d(b.last, a.first) + d(a.last, after));
    tour_.reverse(a.first, c.last);
    for (const auto& stretch : {a, b, c}) tour_.reverse(stretch.last, stretch.first);
    wake(before, a.first, a.last, b.first, b.last, c.first, c.last, after);
    return gain;
}

}  // namespace integralrob
