// A closed tour in an array, in which any stretch can be turned round.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace integralrob {

// The array is read forwards or backwards: turning a stretch round is, up to the direction of reading, the
// same as turning the rest of the tour round, and the shorter of the two is what is done.
class Tour {
  public:
    explicit Tour(const std::vector<int32_t>& order) : order_(order), place_(order.size()) {
        for (int32_t i = 0; i < size(); ++i) place_[order_[i]] = i;
    }

    int32_t size() const { return static_cast<int32_t>(order_.size()); }

    int32_t next(int32_t node) const { return backwards_ ? before(node) : after(node); }
    int32_t previous(int32_t node) const { return backwards_ ? after(node) : before(node); }

    // Whether going forward from `from` meets `node` no later than `to`.
    bool between(int32_t from, int32_t node, int32_t to) const {
        if (backwards_) std::swap(from, to);
        const int32_t a = place_[from], b = place_[node], c = place_[to];
        return a <= c ? a <= b && b <= c : a <= b || b <= c;
    }

    // from -> ... -> to becomes to -> ... -> from, between the same neighbours.
    void reverse(int32_t from, int32_t to) {
        if (backwards_) std::swap(from, to);
        int32_t i = place_[from], j = place_[to];
        int32_t length = j - i + 1;
        if (length <= 0) length += size();
        if (2 * length > size()) {
            std::swap(i, j);
            i = i + 1 == size() ? 0 : i + 1;
            j = j == 0 ? size() - 1 : j - 1;
            length = size() - length;
            backwards_ = !backwards_;
        }
        const Swaps swaps{i, j, length / 2};
        swap(swaps);
        done_.push_back(swaps);
    }

    // Reads the tour in the other direction from now on.
    void turn() { backwards_ = !backwards_; }

    // The tour stays as it is, or becomes again what it was at the last call of `keep`.
    void keep() {
        done_.clear();
        kept_backwards_ = backwards_;
    }
    void undo() {
        for (; !done_.empty(); done_.pop_back()) swap(done_.back());
        backwards_ = kept_backwards_;
    }

  private:
    std::vector<int32_t> order_, place_;  // position -> node, node -> position
    bool backwards_ = false, kept_backwards_ = false;

    // Of the nodes at i and j, i + 1 and j - 1, and so on: its own inverse.
    struct Swaps {
        int32_t i, j, count;
    };
    std::vector<Swaps> done_;  // since `keep`

    void swap(Swaps swaps) {
        auto [i, j, count] = swaps;
        for (; count > 0; --count) {
            const int32_t a = order_[i], b = order_[j];
            order_[i] = b, place_[b] = i;
            order_[j] = a, place_[a] = j;
            i = i + 1 == size() ? 0 : i + 1;
            j = j == 0 ? size() - 1 : j - 1;
        }
    }

    int32_t after(int32_t node) const {
        const int32_t i = place_[node] + 1;
        return order_[i == size() ? 0 : i];
    }
    int32_t before(int32_t node) const {
        const int32_t i = place_[node];
        return order_[i == 0 ? size() - 1 : i - 1];
    }
};

}  // namespace integralrob
