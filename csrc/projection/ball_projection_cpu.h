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

    static Extent of(const A* a, const A* b, int64_t count, A eps) {
        const auto max = [](Lane<A> x, Lane<A> y) __attribute__((always_inline)) { return x > y ? x : y; };
        const Lane<A> zero{};
        Lane<A> largest{}, moving{}, reaching{};
        for_vectors(a, b, count, [&](int, Lane<A> a, Lane<A> b) __attribute__((always_inline)) {
            largest = max(a, largest);
            moving = max(b > 0 ? a : zero, moving);
            reaching = max(b < eps ? zero : a, reaching);
        });
        Extent extent;
        for (int lane = 0; lane < kLanes<A>; ++lane)
            extent.add({largest[lane], moving[lane], reaching[lane]});
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
//   write(first, count, delta): the entries [first, first + count) of the projection are delta
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

    void run() const {
        Norm<A> search(eps_, extent());
        if (Norm<A>::has_pieces(row_.center != nullptr)) search.propose(sample());
        while (!search.found) pass(search);
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

    // Magnitudes and limits of the entries [first, first + count).
    void fill(int64_t first, int64_t count, A* a, A* b) const {
        const A most = Norm<A>::most(eps_);
        if (row_.center == nullptr) {
            for_entries<A>(count, [&]<typename V>(int64_t k) __attribute__((always_inline)) {
                store(finite(absolute(row_.template y<V>(first + k)), kLargest<A>), a + k);
                store(V{} + most, b + k);
            });
        } else {
            for_entries<A>(count, [&]<typename V>(int64_t k) __attribute__((always_inline)) {
                const V y = row_.template y<V>(first + k);
                const V room = limit(y, load<V>(row_.center + first + k), row_.lo, row_.hi, most);
                const V size = finite(absolute(y), kLargest<A>);
                store(room == room ? size : room, a + k);  // a NaN in the limit is one in the entry
                store(room, b + k);
            });
        }
    }

    // Fills the buffer up to whole strides. Returns the number of entries with what was added.
    static int64_t pad(int64_t count, A* a, A* b) {
        const int64_t padded = round_up(count, kStride<A>);
        std::fill(a + count, a + padded, A(0));
        std::fill(b + count, b + padded, A(0));
        return padded;
    }

    struct Chunk {
        int64_t first, count, padded;
        A *a, *b;
    };

    // body(chunk); `fill` it in any case, or only where it is not kept.
    template <typename Body>
    auto with_chunk(bool fill_it, int64_t i, const Body& body) const {
        alignas(64) A local[2 * kChunk];
        Chunk chunk;
        chunk.first = i * kChunk;
        chunk.count = std::min(kChunk, row_.length - chunk.first);
        chunk.padded = round_up(chunk.count, kStride<A>);
        chunk.a = buffer_ == nullptr ? local : buffer_ + chunk.first;
        chunk.b = chunk.a + (buffer_ == nullptr ? kChunk : round_up(row_.length, kStride<A>));
        if (fill_it || buffer_ == nullptr) {
            fill(chunk.first, chunk.count, chunk.a, chunk.b);
            pad(chunk.count, chunk.a, chunk.b);
        }
        return body(chunk);
    }

    Extent<A> extent() const {
        return add_up<Extent<A>>(parallel_, chunks_, [&](int64_t i) __attribute__((always_inline)) {
            return with_chunk(true, i, [&](const Chunk& chunk) __attribute__((always_inline)) {
                return Extent<A>::of(chunk.a, chunk.b, chunk.padded, eps_);
            });
        });
    }

    void pass(Norm<A>& search) const {
        const auto formula = search.formula();
        search.update(add_up<Sums>(parallel_, chunks_, [&](int64_t i) __attribute__((always_inline)) {
            return with_chunk(false, i, [&](const Chunk& chunk) __attribute__((always_inline)) {
                return Norm<A>::sums(chunk.a, chunk.b, chunk.padded, formula, eps_);
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
            fill(first, kGroup, a + count, b + count);
        }
        if (count == 0) fill(0, count = row_.length, a, b);
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
            for (int64_t i = begin; i < end; ++i) {
                with_chunk(false, i, [&](const Chunk& chunk) {
                    for_entries<A>(chunk.count, [&]<typename V>(int64_t k) __attribute__((always_inline)) {
                        const V y = row_.template y<V>(chunk.first + k);
                        const V size = formula(finite(absolute(y), largest), load<V>(chunk.b + k));
                        store(with_sign(size, y), chunk.a + k);  // which is not needed any more
                    });
                    row_.write(chunk.first, chunk.count, chunk.a);
                });
            }
        });
    }
};

}  // namespace integralrob::INTEGRALROB_ISA_NAMESPACE
