// The projection of a row onto the l1 or the l2 ball within a box, whatever the row is made from.
//
// Magnitudes and limits of a row that fits the cache are written once; those of a longer row are made again
// in each pass, chunk by chunk, from what has to be read anyway.
#pragma once

#include <limits>

#include "projection/row_cpu.h"

namespace integralrob::INTEGRALROB_ISA_NAMESPACE {

// The two sums that a search is told: Σ |δ| and #{free}, or Σ δ² over free and over clipped entries.
struct Sums {
    CompensatedSum<double> first, second;

    INTEGRALROB_INLINE void add(const Sums& other) {
        first.add(other.first);
        second.add(other.second);
    }
};

// The largest magnitude, and that of the entries that can move (b > 0), and that of those that the ball
// limits.
template <typename A>
struct Extent {
    A largest = 0, moving = 0, reaching = 0;

    // Where no entry is larger than the ball, nothing depends on which of them can move or reach it: `moving`
    // is the largest of all then, and `reaching` 0.
    static Extent of(const A* a, const A* b, int64_t count, A eps) {
        Lane<A> largest{}, moving{}, reaching{};
        for_vectors(a, b, count, [&](int, Lane<A> a, Lane<A>) __attribute__((always_inline)) {
            largest = Larger()(a, largest);
        });
        Extent extent;
        extent.largest = extent.moving = fold(largest, Larger());
        if (!(extent.largest > eps)) return extent;
        for_vectors(a, b, count, [&](int, Lane<A> a, Lane<A> b) __attribute__((always_inline)) {
            moving = Larger()(b > 0 ? a : Lane<A>{}, moving);
            reaching = Larger()(b < eps ? Lane<A>{} : a, reaching);
        });
        extent.moving = fold(moving, Larger());
        extent.reaching = fold(reaching, Larger());
        return extent;
    }
    INTEGRALROB_INLINE void add(const Extent& other) {
        largest = std::max(largest, other.largest);
        moving = std::max(moving, other.moving);
        reaching = std::max(reaching, other.reaching);
    }
};

template <typename A>
struct L1 : L1Search<A> {
    L1(A eps, const Extent<A>& extent) : L1Search<A>(eps, extent.moving, extent.reaching) {}

    auto formula() const { return this->threshold(); }
    void update(const Sums& sums) { L1Search<A>::update(sums.first.value(), sums.second.value()); }
    void first_guess(const A*, int64_t, A) {}  // none better than what update() says

    // Whether Newton's step from the start is not the answer yet.
    static bool has_pieces(bool) { return true; }
    double answer() const { return this->theta(); }
    void propose(double theta) { this->guess(theta); }
    // Entries of up to this size are 0 wherever `answer` or more is tried. It leaves a margin below an answer
    // that is only near.
    static A bound(double answer) { return static_cast<A>(0.75 * answer); }
    static A most(A eps) { return eps; }
    // Of a share of the entries, which has this share of the norm.
    static A sample_radius(A eps, double share) { return static_cast<A>(eps * share); }

    static Sums sums(const A* a, const A* b, int64_t count, const Threshold<A>& threshold, A) {
        VectorSum<A> norm[2];
        decltype(Lane<A>{} < Lane<A>{}) free[2] = {};
        for_vectors(a, b, count, [&](int u, Lane<A> a, Lane<A> b) __attribute__((always_inline)) {
            const Lane<A> x = threshold(a, b);
            norm[u].add(x);
            free[u] += (x > 0) & (x < b);
        });
        norm[0].add(norm[1]);
        return {norm[0].total(), {count_of(free[0] + free[1]), 0.0}};
    }
};

template <typename A>
struct L2 : L2Search<A> {
    L2(A eps, const Extent<A>& extent) : L2Search<A>(eps, extent.largest) {}

    auto formula() const { return this->factor(); }
    void update(const Sums& sums) { L2Search<A>::update(sums.first.value(), sums.second.value()); }
    void first_guess(const A* a, int64_t count, A eps) {
        const A unit = this->factor().unit;
        double squares = 0;
        for (int64_t k = 0; k < count; ++k) squares += static_cast<double>(a[k] * unit) * (a[k] * unit);
        this->guess_from(eps, squares);
    }

    static bool has_pieces(bool with_box) { return with_box; }
    double answer() const { return this->at * this->factor().unit; }
    void propose(double s) { this->guess(s / this->factor().unit); }
    static A bound(double) { return -1; }  // every entry counts
    static A most(A) { return std::numeric_limits<A>::infinity(); }
    static A sample_radius(A eps, double share) { return static_cast<A>(eps * std::sqrt(share)); }

    static Sums sums(const A* a, const A* b, int64_t count, const Factor<A>& factor, A eps) {
        const double unit = L2Search<A>::square_unit(eps);
        VectorSum<A> free[2], clipped[2];
        for_vectors(a, b, count, [&](int u, Lane<A> a, Lane<A> b) __attribute__((always_inline)) {
            const Lane<A> x = factor(a, b);
            free[u].add_square(x < b ? x : Lane<A>{}, unit);
            clipped[u].add_square(x < b ? Lane<A>{} : x, unit);
        });
        free[0].add(free[1]);
        clipped[0].add(clipped[1]);
        return {free[0].total(), clipped[0].total()};
    }
};

// Rows of up to so many entries are kept in a buffer.
constexpr int64_t kResident = 1 << 18;

// What the buffer for a row takes.
template <typename A>
int64_t projection_buffer(int64_t length) {
    return length <= kResident ? 2 * round_up(length, kStride<A>) : 0;
}

// A row y and the box around its center:
//   int64_t length; const T* center, null without a box; A lo, hi
//   y<V>(k): the entries from k on
//   ask_ahead(k): brings what those of the next row are made from nearer
//   place(first, spare): where the entries of the projection from first on go, `spare` if nowhere yet
//   write(first, count, delta): the entries [first, first + count) of the projection are delta, in that place
template <typename Row, template <typename> typename Norm>
class Projection {
    using A = typename Row::A;

  public:
    Projection(const Row& row, A eps, A* buffer, ParallelFor parallel)
        : row_(row),
          eps_(eps),
          buffer_(row.length <= kResident ? buffer : nullptr),
          chunks_((row.length + kChunk - 1) / kChunk),
          parallel_(chunks_ == 1 ? nullptr : parallel) {}

    void run() {
        const bool guess = Norm<A>::has_pieces(row_.center != nullptr);
        const double guessed = guess ? sample() : 0;
        if (guess && guessed > 0 && buffer_ != nullptr) bound_ = Norm<A>::bound(guessed);
        Extent<A> extent = fill_buffer();
        if (!(extent.moving > bound_)) extent = fill_buffer_with_all();
        Norm<A> search(eps_, extent);
        if (guess) search.propose(guessed);
        while (!search.found) {
            const double answer = search.answer();
            if (!(answer >= bound_)) {  // what was left out may be more than 0, and what the ball limits
                search = Norm<A>(eps_, fill_buffer_with_all());
                search.propose(answer);
            }
            pass(search);
        }
        if (search.inside()) {
            write(Unchanged{}, std::numeric_limits<A>::infinity());
        } else {
            write(search.formula(), kLargest<A>);
        }
    }

  private:
    const Row& row_;
    A eps_;
    A* buffer_;
    int64_t chunks_;
    ParallelFor parallel_;
    A bound_ = -1;                      // entries of up to this size are left out of the buffer
    int64_t kept_[kResident / kChunk];  // entries of each chunk in the buffer

    // body(y, limit, k) for the entries [first, first + count), k counted from `first`.
    template <typename Body>
    INTEGRALROB_INLINE void for_row(int64_t first, int64_t count, const Body& body) const {
        const Row& row = row_;
        const A most = Norm<A>::most(eps_);
        if (row.center == nullptr) {
            for_entries<A>(count, [&]<typename V>(int64_t k) __attribute__((always_inline)) {
                body(row.template y<V>(first + k), V{} + most, k);
            });
        } else {
            for_entries<A>(count, [&]<typename V>(int64_t k) __attribute__((always_inline)) {
                const V y = row.template y<V>(first + k);
                body(y, limit(y, load<V>(row.center + first + k), row.lo, row.hi, most), k);
            });
        }
    }

    // Magnitudes and limits of the entries [first, first + count); where `bound` >= 0, of those that are
    // larger than it, or no numbers. Returns how many there are.
    int64_t fill(int64_t first, int64_t count, A* a, A* b, A bound) const {
        if (bound < 0) {
            for_row(first, count, [&](auto y, auto room, int64_t k) __attribute__((always_inline)) {
                store(magnitude(y, room), a + k);
                store(room, b + k);
                row_.ask_ahead(first + k);
            });
            return count;
        }
        int64_t kept = 0;
        for_row(first, count, [&](auto y, auto room, int64_t k) __attribute__((always_inline)) {
            kept += store_if_above<A>(magnitude(y, room), room, bound, a + kept, b + kept);
            row_.ask_ahead(first + k);
        });
        return kept;
    }

    // A NaN in the limit is one in the entry.
    template <typename V>
    static INTEGRALROB_INLINE V magnitude(V y, V limit) {
        const V size = finite(absolute(y), kLargest<A>);
        return limit == limit ? size : limit;
    }

    // Fills the buffer up to whole strides. Returns the number of entries with what was added.
    static int64_t pad(int64_t count, A* a, A* b) {
        const int64_t padded = round_up(count, kStride<A>);
        std::fill(a + count, a + padded, A(0));
        std::fill(b + count, b + padded, A(0));
        return padded;
    }

    // body(a, b, count), the count one of whole strides.
    template <typename Body>
    auto with_chunk(bool fill_it, int64_t i, const Body& body) {
        alignas(64) A local[2 * kChunk];
        const int64_t first = i * kChunk, count = std::min(kChunk, row_.length - first);
        A* a = buffer_ == nullptr ? local : buffer_ + first;
        A* b = a + (buffer_ == nullptr ? kChunk : round_up(row_.length, kStride<A>));
        int64_t padded;
        if (fill_it || buffer_ == nullptr) {
            padded = pad(fill(first, count, a, b, bound_), a, b);
            if (buffer_ != nullptr) kept_[i] = padded;
        } else {
            padded = kept_[i];
        }
        return body(a, b, padded);
    }

    Extent<A> fill_buffer() {
        return add_up<Extent<A>>(parallel_, chunks_, [&](int64_t i) __attribute__((always_inline)) {
            return with_chunk(true, i,
                              [&](const A* a, const A* b, int64_t count) __attribute__((always_inline)) {
                                  return Extent<A>::of(a, b, count, eps_);
                              });
        });
    }

    Extent<A> fill_buffer_with_all() {
        bound_ = -1;
        return fill_buffer();
    }

    void pass(Norm<A>& search) {
        const auto formula = search.formula();
        search.update(add_up<Sums>(parallel_, chunks_, [&](int64_t i) __attribute__((always_inline)) {
            return with_chunk(false, i,
                              [&](const A* a, const A* b, int64_t count) __attribute__((always_inline)) {
                                  return Norm<A>::sums(a, b, count, formula, eps_);
                              });
        }));
    }

    // The answer of a sample: groups of neighbours, evenly over the row.
    double sample() const {
        constexpr int64_t kGroup = 16, kLeast = 256;
        constexpr int kPasses = 5;  // or so: the answer need not be exact
        alignas(64) A a[kChunk], b[kChunk];
        const int64_t groups = row_.length / kGroup;
        const int64_t every = std::max<int64_t>(1, std::min(groups * kGroup / kLeast, int64_t{16}));
        const int64_t step = std::max(every, (groups * kGroup + kChunk - 1) / kChunk) * kGroup;
        int64_t count = 0;
        for (int64_t first = 0; first + kGroup <= row_.length; first += step, count += kGroup) {
            fill(first, kGroup, a + count, b + count, -1);
        }
        if (count == 0) count = fill(0, row_.length, a, b, -1);
        const int64_t padded = pad(count, a, b);
        const A eps = Norm<A>::sample_radius(eps_, static_cast<double>(count) / row_.length);
        Norm<A> search(eps, Extent<A>::of(a, b, padded, eps));
        search.first_guess(a, count, eps);
        for (int i = 0; i < kPasses && !search.found; ++i) {
            search.update(Norm<A>::sums(a, b, padded, search.formula(), eps));
        }
        return search.answer();
    }

    // `largest`: of an entry, which counts as this where it is larger.
    template <typename Formula>
    void write(const Formula& formula, A largest) const {
        for_range(parallel_, chunks_, [&](int64_t begin, int64_t end) {
            alignas(64) A spare[kChunk];
            for (int64_t i = begin; i < end; ++i) {
                const int64_t first = i * kChunk, count = std::min(kChunk, row_.length - first);
                A* to = row_.place(first, spare);
                for_row(first, count, [&](auto y, auto room, int64_t k) __attribute__((always_inline)) {
                    store(with_sign(formula(finite(absolute(y), largest), room), y), to + k);
                });
                row_.write(first, count, to);
            }
        });
    }
};

}  // namespace integralrob::INTEGRALROB_ISA_NAMESPACE
