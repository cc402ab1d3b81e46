// What a path is searched in: points, their distances, and who is near whom.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

namespace integralrob {

struct Neighbour {
    int32_t node;
    double distance;
};

// The points and, as the last node, a depot at distance 0 from each: an open path through the points is a
// closed tour through all nodes, and its two ends are edges like all others.
class Nodes {
  public:
    static constexpr int32_t kNeighbours = 8;

    // `distance[points, points]`, of whose [i, j] and [j, i] the mean is taken; the diagonal does not count.
    Nodes(const double* distance, int64_t points)
        : size_(static_cast<int32_t>(points) + 1),
          degree_(std::min(size_ - 1, kNeighbours + 1)),
          distance_(static_cast<size_t>(size_) * size_),
          neighbours_(static_cast<size_t>(size_) * degree_) {
        for (int64_t i = 0; i < points; ++i) {
            for (int64_t j = 0; j < i; ++j) {
                const double mean = (distance[i * points + j] + distance[j * points + i]) / 2;
                distance_[i * size_ + j] = distance_[j * size_ + i] = mean;
                largest_ = std::max(largest_, mean);
            }
        }
        std::vector<int32_t> others(size_ - 1);
        for (int32_t i = 0; i < depot(); ++i) find_neighbours(i, others);
    }

    int32_t size() const { return size_; }
    int32_t depot() const { return size_ - 1; }
    const double* row(int32_t i) const { return &distance_[static_cast<size_t>(i) * size_]; }
    double distance(int32_t i, int32_t j) const { return row(i)[j]; }

    // A smaller gain is rounding, and could go on for ever.
    double least_gain() const { return 1e-12 * largest_; }

    // The nearest first, the depot among them. The depot has none: an edge that costs nothing is never what a
    // gainful exchange of edges must begin with.
    std::span<const Neighbour> neighbours(int32_t i) const {
        if (i == depot()) return {};
        return {&neighbours_[static_cast<size_t>(i) * degree_], static_cast<size_t>(degree_)};
    }

    double length(const std::vector<int32_t>& tour) const {
        double sum = distance(tour.back(), tour.front());
        for (size_t i = 1; i < tour.size(); ++i) sum += distance(tour[i - 1], tour[i]);
        return sum;
    }

  private:
    int32_t size_, degree_;
    double largest_ = 0;
    std::vector<double> distance_;       // [size, size]
    std::vector<Neighbour> neighbours_;  // [size, degree]

    void find_neighbours(int32_t i, std::vector<int32_t>& others) {
        std::iota(others.begin(), others.end(), 0);
        others[i] = depot();
        const double* near = row(i);
        std::partial_sort(others.begin(), others.begin() + degree_, others.end(), [&](int32_t a, int32_t b) {
            return near[a] < near[b] || (near[a] == near[b] && a > b);  // the depot before duplicates
        });
        for (int32_t k = 0; k < degree_; ++k) {
            neighbours_[static_cast<size_t>(i) * degree_ + k] = {others[k], near[others[k]]};
        }
    }
};

}  // namespace integralrob
