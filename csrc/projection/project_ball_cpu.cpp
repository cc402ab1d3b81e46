// Projections onto the l1 and the l2 ball within a box on the CPU. Compiled once per instruction set (see
// common/isa.h).
//
// A row is a sequence of chunks. The sums of a chunk are taken by one thread, and those of the chunks are
// added in order: the result does not depend on the number of threads. Magnitudes and limits of a row that
// fits the cache are written once; those of a longer row are made again in each pass, chunk by chunk, from
// what has to be read anyway.
#include <algorithm>
#include <limits>
#include <utility>

#include "common/cpu_vector.h"
#include "projection/ball_search.h"
#include "projection/projection_kernels.h"

#if defined(__clang__)
#define INTEGRALROB_INDEPENDENT_ITERATIONS _Pragma("clang loop vectorize(assume_safety)")
#else
#define INTEGRALROB_INDEPENDENT_ITERATIONS _Pragma("GCC ivdep")
#endif

namespace integralrob::INTEGRALROB_ISA_NAMESPACE {
namespace {

constexpr int64_t kChunk = 4096;
constexpr int64_t kResident = 1 << 18;

// Buffers are filled up to whole strides with zeros, which no sum notices.
template <typename A>
constexpr int64_t kStride = 2 * kLanes<A>;

constexpr int64_t round_up(int64_t x, int64_t y) { return (x + y - 1) / y * y; }

template <typename Body>
void for_range(ParallelFor parallel, int64_t count, const Body& body) {
    if (parallel == nullptr) return body(int64_t{0}, count);
    parallel(
        count,
        [](const void* context, int64_t begin, int64_t end) {
            (*static_cast<const Body*>(context))(begin, end);
        },
        &body);
}

// ---------------------------------------------------------------------------------------- sums over a chunk

template <typename A>
using Lane = typename Vector<A, kLanes<A>>::type;

// Vectors of float32 are summed in float64, of which they fill two; of float64 with compensation.
template <typename A>
class VectorSum;

template <>
class VectorSum<float> {
  public:
    INTEGRALROB_INLINE void add(Lane<float> x) {
        low_ += widen_half<0>(x);
        high_ += widen_half<1>(x);
    }
    INTEGRALROB_INLINE void add_square(Lane<float> x, double) {
        const Lane<double> low = widen_half<0>(x), high = widen_half<1>(x);
        low_ += low * low;
        high_ += high * high;
    }
    INTEGRALROB_INLINE void add(const VectorSum& other) {
        low_ += other.low_;
        high_ += other.high_;
    }
    INTEGRALROB_INLINE CompensatedSum<double> total() const {
        return {Vector<double, kLanes<double>>{low_ + high_}.sum(), 0.0};
    }

  private:
    Lane<double> low_{}, high_{};

    template <int Which>
    static INTEGRALROB_INLINE Lane<double> widen_half(Lane<float> x) {
        typedef double Wide __attribute__((vector_size(2 * kVectorBytes)));
        const Wide wide = __builtin_convertvector(x, Wide);
        return [&]<int... K>(std::integer_sequence<int, K...>) __attribute__((always_inline)) {
            return __builtin_shufflevector(wide, wide, (Which * kLanes<double> + K)...);
        }(std::make_integer_sequence<int, kLanes<double>>());
    }
};

template <>
class VectorSum<double> {
  public:
    INTEGRALROB_INLINE void add(Lane<double> x) { sum_.add(x); }
    INTEGRALROB_INLINE void add_square(Lane<double> x, double unit) {
        const Lane<double> scaled = x * unit;
        sum_.add(scaled * scaled);
    }
    INTEGRALROB_INLINE void add(const VectorSum& other) { sum_.add(other.sum_); }
    INTEGRALROB_INLINE CompensatedSum<double> total() const {
        CompensatedSum<double> total;
        for (int lane = 0; lane < kLanes<double>; ++lane) total.add({sum_.sum[lane], sum_.error[lane]});
        return total;
    }

  private:
    CompensatedSum<Lane<double>> sum_;
};

// The two sums that a search is told: Σ |δ| and #{free}, or Σ δ² over free and over clipped entries.
struct Sums {
    CompensatedSum<double> first, second;

    INTEGRALROB_INLINE void add(const Sums& other) {
        first.add(other.first);
        second.add(other.second);
    }
};

// body(a, b) for the vectors of a chunk, two at a time: body is called with 0 and 1, for sums that do not
// wait for each other.
template <typename A, typename Body>
INTEGRALROB_INLINE void for_vectors(const A* a, const A* b, int64_t count, const Body& body) {
    using V = Vector<A, kLanes<A>>;
    for (int64_t k = 0; k < count; k += kStride<A>) {
        for (int u = 0; u < 2; ++u) {
            body(u, V::load(a + k + u * kLanes<A>).lanes, V::load(b + k + u * kLanes<A>).lanes);
        }
    }
}

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
            free[u] -= (x > 0) & (x < b);
        });
        Sums sums;
        for (int u = 0; u < 2; ++u) {
            sums.first.add(norm[u].total());
            for (int lane = 0; lane < kLanes<A>; ++lane)
                sums.second.sum += static_cast<double>(free[u][lane]);
        }
        return sums;
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

// ------------------------------------------------------------------------------------------------------- a
// row

template <typename T>
struct Row {
    using A = arithmetic_t<T>;
    const T *y, *center;
    A most, lo, hi;  // most: of any limit
    int64_t length;

    // Magnitudes and limits of the entries [first, first + count).
    void fill(int64_t first, int64_t count, A* __restrict a, A* __restrict b) const {
        const T* from = y + first;
        if (center == nullptr) {
            for (int64_t k = 0; k < count; ++k) {
                a[k] = magnitude(A(widen(from[k])));
                b[k] = most;
            }
        } else {
            const T* c = center + first;
            for (int64_t k = 0; k < count; ++k) {
                const A x = widen(from[k]);
                b[k] = limit(x, A(widen(c[k])), lo, hi, most);
                a[k] = magnitude(x, b[k]);
            }
        }
    }
};

// Fills the buffer up to whole strides. Returns the number of entries with what was added.
template <typename A>
int64_t pad(int64_t count, A* a, A* b) {
    const int64_t padded = round_up(count, kStride<A>);
    std::fill(a + count, a + padded, A(0));
    std::fill(b + count, b + padded, A(0));
    return padded;
}

template <typename T, template <typename> typename Norm>
class Projection {
    using A = arithmetic_t<T>;

  public:
    // `buffer`: [2, round_up(length, kStride)], or null where that is more than should be kept
    Projection(const Row<T>& row, A eps, A* buffer, ParallelFor parallel)
        : row_(row),
          eps_(eps),
          buffer_(buffer),
          chunks_((row.length + kChunk - 1) / kChunk),
          parallel_(parallel) {}

    void run(T* out) const {
        Norm<A> search(eps_, extent());
        pass(search);
        if (!search.found) search.propose(sample());
        while (!search.found) pass(search);
        if (search.inside()) {
            write(out, [](A y, A b)
                           __attribute__((always_inline)) { return b < std::fabs(y) ? b : std::fabs(y); });
        } else {
            const auto formula = search.formula();
            write(out, [&](A y, A b) __attribute__((always_inline)) { return formula(magnitude(y), b); });
        }
    }

  private:
    const Row<T>& row_;
    A eps_;
    A* buffer_;
    int64_t chunks_;
    ParallelFor parallel_;

    struct Chunk {
        int64_t first, count, padded;
        A *a, *b;
    };

    // body(i, chunk) for each chunk i; `fill` it in any case, or only where it is not kept.
    template <typename Body>
    void for_chunks(bool fill, const Body& body) const {
        const int64_t padded_length = round_up(row_.length, kStride<A>);
        for_range(parallel_, chunks_, [&](int64_t begin, int64_t end) {
            alignas(64) A local[2 * kChunk];
            for (int64_t i = begin; i < end; ++i) {
                Chunk chunk;
                chunk.first = i * kChunk;
                chunk.count = std::min(kChunk, row_.length - chunk.first);
                chunk.padded = round_up(chunk.count, kStride<A>);
                chunk.a = buffer_ == nullptr ? local : buffer_ + chunk.first;
                chunk.b = buffer_ == nullptr ? local + kChunk : buffer_ + padded_length + chunk.first;
                if (fill || buffer_ == nullptr) {
                    row_.fill(chunk.first, chunk.count, chunk.a, chunk.b);
                    pad(chunk.count, chunk.a, chunk.b);
                }
                body(i, chunk);
            }
        });
    }

    // Result::add over what `of` gives for the chunks.
    template <typename Result, typename Of>
    Result add_chunks(bool fill, const Of& of) const {
        Result result;
        if (chunks_ == 1 || parallel_ == nullptr) {
            for_chunks(fill, [&](int64_t, const Chunk& chunk) { result.add(of(chunk)); });
        } else {
            const Scratch<Result> parts(chunks_);
            for_chunks(fill, [&](int64_t i, const Chunk& chunk) { parts.data()[i] = of(chunk); });
            for (int64_t i = 0; i < chunks_; ++i) result.add(parts.data()[i]);
        }
        return result;
    }

    Extent<A> extent() const {
        return add_chunks<Extent<A>>(true, [&](const Chunk& chunk) __attribute__((always_inline)) {
            return Extent<A>::of(chunk.a, chunk.b, chunk.padded, eps_);
        });
    }

    void pass(Norm<A>& search) const {
        const auto formula = search.formula();
        search.update(add_chunks<Sums>(false, [&](const Chunk& chunk) __attribute__((always_inline)) {
            return Norm<A>::sums(chunk.a, chunk.b, chunk.padded, formula, eps_);
        }));
    }

    // The answer of a sample: groups of neighbours, evenly over the row.
    double sample() const {
        constexpr int64_t kGroup = 16, kLeast = 256;
        alignas(64) A a[kChunk], b[kChunk];
        const int64_t groups = row_.length / kGroup;
        const int64_t every = std::max<int64_t>(1, std::min(groups * kGroup / kLeast, int64_t{16}));
        const int64_t step = std::max(every, (groups * kGroup + kChunk - 1) / kChunk) * kGroup;
        int64_t count = 0;
        for (int64_t first = 0; first + kGroup <= row_.length; first += step, count += kGroup) {
            row_.fill(first, kGroup, a + count, b + count);
        }
        if (count == 0) row_.fill(0, count = row_.length, a, b);
        const int64_t padded = pad(count, a, b);
        const A eps = Norm<A>::sample_radius(eps_, static_cast<double>(count) / row_.length);
        Norm<A> search(eps, Extent<A>::of(a, b, padded, eps));
        const auto pass = [&] { search.update(Norm<A>::sums(a, b, padded, search.formula(), eps)); };
        pass();
        search.first_guess(a, count, eps);
        while (!search.found) pass();
        return search.answer();
    }

    template <typename Formula>
    void write(T* out, const Formula& formula) const {
        for_chunks(false, [&](int64_t, const Chunk& chunk) {
            const T* y = row_.y + chunk.first;
            T* to = out + chunk.first;
            for (int64_t k = 0; k < chunk.count; ++k) {
                to[k] = signed_entry(formula(A(widen(y[k])), chunk.b[k]), y[k]);
            }
        });
    }
};

template <template <typename> typename Norm, typename T, typename A = arithmetic_t<T>>
void project(const T* delta, const T* center, PerRow<A> eps, A lo, A hi, int64_t length, T* out,
             int64_t begin, int64_t end, ParallelFor parallel) {
    if (length == 0) return;
    const bool resident = length <= kResident;
    const Scratch<A> buffer(resident ? 2 * round_up(length, kStride<A>) : 0);
    for (int64_t r = begin; r < end; ++r) {
        const int64_t first = r * length;
        const A ball = radius(eps[r]);
        const Row<T> row{
            delta + first, center == nullptr ? nullptr : center + first, Norm<A>::most(ball), lo, hi, length};
        Projection<T, Norm>(row, ball, resident ? buffer.data() : nullptr, parallel).run(out + first);
    }
}

// ------------------------------------------------------------------------------------------------ the
// derivative

// The sums of a row: Σ_F g·d, Σ_F d², and, in l2, Σ_F m and Σ_F a, whose ratio is s.
struct GradientSums {
    CompensatedSum<double> projected, squares, results, sizes;
    bool cut = false;

    INTEGRALROB_INLINE void add(const GradientSums& other) {
        projected.add(other.projected);
        squares.add(other.squares);
        results.add(other.results);
        sizes.add(other.sizes);
        cut = cut || other.cut;
    }
};

template <typename T, bool kL2>
class ProjectionGradient {
    using A = arithmetic_t<T>;

  public:
    // `row`: with an infinite ε, so that limits are those of the box
    ProjectionGradient(const Row<T>& row, A eps, const T* grad, const T* result, ParallelFor parallel)
        : row_(row),
          eps_(eps),
          grad_(grad),
          result_(result),
          unit_(kL2 ? inverse_power(eps) : A(1)),
          parallel_(parallel) {}

    void run(T* grad_delta, A* grad_eps, T* grad_center) const {
        const GradientSums sums = sum();
        const double squares = sums.squares.value();
        const bool moves = sums.cut && squares > 0;
        const double kappa = moves ? sums.projected.value() / squares : 0.0;
        const double s =
            kL2 && sums.cut && sums.sizes.value() > 0 ? sums.results.value() / sums.sizes.value() : 1.0;
        *grad_eps = static_cast<A>(kL2 && moves ? kappa * unit_ * eps_ : kappa);
        for_range(parallel_, blocks(), [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const Block block(*this, i);
                block.write(static_cast<A>(s), static_cast<A>(kappa), sums.cut, grad_delta + i * kBlock,
                            grad_center == nullptr ? nullptr : grad_center + i * kBlock);
            }
        });
    }

  private:
    static constexpr int64_t kBlock = 512;

    Row<T> row_;
    A eps_;
    const T *grad_, *result_;
    A unit_;
    ParallelFor parallel_;

    int64_t blocks() const { return (row_.length + kBlock - 1) / kBlock; }

    // kBlock entries. Limits are made by one loop and used by the next, so that each vectorises.
    class Block {
      public:
        Block(const ProjectionGradient& of, int64_t index)
            : count_(std::min(kBlock, of.row_.length - index * kBlock)),
              y_(of.row_.y + index * kBlock),
              grad_(of.grad_ + index * kBlock),
              result_(of.result_ + index * kBlock),
              unit_(of.unit_) {
            of.row_.fill(index * kBlock, count_, size_, room_);
        }

        // As if the ball cut the row.
        GradientSums sums() const {
            alignas(64) A projected[kBlock], squares[kBlock], results[kBlock], sizes[kBlock];
            int cut = 0;
            for (int64_t k = 0; k < count_; ++k) {
                const ProjectedEntry<T> entry(y_[k], result_[k], room_[k]);
                const bool use = free(entry, true);
                const A d = direction(k), product = A(widen(grad_[k])) * d, square = d * d;
                projected[k] = use ? product : A(0);
                squares[k] = use ? square : A(0);
                results[k] = use ? entry.m : A(0);
                sizes[k] = use ? entry.a : A(0);
                cut |= entry.cut();
            }
            GradientSums sums;
            sums.cut = cut != 0;
            sums.projected = total(projected);
            sums.squares = total(squares);
            if (kL2) {
                sums.results = total(results);
                sums.sizes = total(sizes);
            }
            return sums;
        }

        void write(A s, A kappa, bool cut, T* grad_delta, T* grad_center) const {
            INTEGRALROB_INDEPENDENT_ITERATIONS
            for (int64_t k = 0; k < count_; ++k) {
                const ProjectedEntry<T> entry(y_[k], result_[k], room_[k]);
                const A moved = A(widen(grad_[k])) - kappa * direction(k), scaled = s * moved;
                grad_delta[k] = narrow<T>(free(entry, cut) ? scaled : A(0));
            }
            if (grad_center == nullptr) return;
            INTEGRALROB_INDEPENDENT_ITERATIONS
            for (int64_t k = 0; k < count_; ++k) {
                const ProjectedEntry<T> entry(y_[k], result_[k], room_[k]);
                const A moved = kappa * direction(k) - A(widen(grad_[k]));
                grad_center[k] = narrow<T>(entry.moves_with_center() ? moved : A(0));
            }
        }

      private:
        int64_t count_;
        const T *y_, *grad_, *result_;
        A unit_;
        alignas(64) A size_[kBlock];
        alignas(64) A room_[kBlock];

        INTEGRALROB_INLINE A direction(int64_t k) const {
            if constexpr (kL2) return A(widen(result_[k])) * unit_;
            const A y = widen(y_[k]);
            return (y > A(0) ? A(1) : A(0)) - (y < A(0) ? A(1) : A(0));
        }
        static INTEGRALROB_INLINE bool free(const ProjectedEntry<T>& entry, bool cut) {
            return entry.free_l2() & !(entry.m <= (kL2 | !cut ? A(-1) : A(0)));
        }
        CompensatedSum<double> total(A* terms) const {
            const int64_t padded = round_up(count_, kLanes<A>);
            std::fill(terms + count_, terms + padded, A(0));
            VectorSum<A> sum;
            for (int64_t k = 0; k < padded; k += kLanes<A>)
                sum.add(Vector<A, kLanes<A>>::load(terms + k).lanes);
            return sum.total();
        }
    };

    GradientSums sum() const {
        const Scratch<GradientSums> parts(blocks());
        for_range(parallel_, blocks(), [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) parts.data()[i] = Block(*this, i).sums();
        });
        GradientSums sums;
        for (int64_t i = 0; i < blocks(); ++i) sums.add(parts.data()[i]);
        return sums;
    }
};

template <bool kL2, typename T, typename A = arithmetic_t<T>>
void project_backward(const T* grad, const T* delta, const T* result, PerRow<A> eps, const T* center, A lo,
                      A hi, int64_t length, T* grad_delta, A* grad_eps, T* grad_center, int64_t begin,
                      int64_t end, ParallelFor parallel) {
    for (int64_t r = begin; r < end; ++r) {
        const int64_t first = r * length;
        const Row<T> row{delta + first,
                         center == nullptr ? nullptr : center + first,
                         std::numeric_limits<A>::infinity(),
                         lo,
                         hi,
                         length};
        ProjectionGradient<T, kL2>(row, radius(eps[r]), grad + first, result + first, parallel)
            .run(grad_delta + first, grad_eps + r, grad_center == nullptr ? nullptr : grad_center + first);
    }
}

}  // namespace

template <typename T>
void project_l1(const T* delta, const T* center, PerRow<arithmetic_t<T>> eps, arithmetic_t<T> lo,
                arithmetic_t<T> hi, int64_t length, T* out, int64_t begin, int64_t end,
                ParallelFor parallel) {
    project<L1>(delta, center, eps, lo, hi, length, out, begin, end, parallel);
}

template <typename T>
void project_l2(const T* delta, const T* center, PerRow<arithmetic_t<T>> eps, arithmetic_t<T> lo,
                arithmetic_t<T> hi, int64_t length, T* out, int64_t begin, int64_t end,
                ParallelFor parallel) {
    project<L2>(delta, center, eps, lo, hi, length, out, begin, end, parallel);
}

template <typename T>
void project_l1_backward(const T* grad, const T* delta, const T* result, PerRow<arithmetic_t<T>> eps,
                         const T* center, arithmetic_t<T> lo, arithmetic_t<T> hi, int64_t length,
                         T* grad_delta, arithmetic_t<T>* grad_eps, T* grad_center, int64_t begin, int64_t end,
                         ParallelFor parallel) {
    project_backward<false>(grad, delta, result, eps, center, lo, hi, length, grad_delta, grad_eps,
                            grad_center, begin, end, parallel);
}

template <typename T>
void project_l2_backward(const T* grad, const T* delta, const T* result, PerRow<arithmetic_t<T>> eps,
                         const T* center, arithmetic_t<T> lo, arithmetic_t<T> hi, int64_t length,
                         T* grad_delta, arithmetic_t<T>* grad_eps, T* grad_center, int64_t begin, int64_t end,
                         ParallelFor parallel) {
    project_backward<true>(grad, delta, result, eps, center, lo, hi, length, grad_delta, grad_eps,
                           grad_center, begin, end, parallel);
}

#define INTEGRALROB_INSTANTIATE(T)                                                                        \
    template void project_l1<T>(const T*, const T*, PerRow<arithmetic_t<T>>, arithmetic_t<T>,             \
                                arithmetic_t<T>, int64_t, T*, int64_t, int64_t, ParallelFor);             \
    template void project_l1_backward<T>(const T*, const T*, const T*, PerRow<arithmetic_t<T>>, const T*, \
                                         arithmetic_t<T>, arithmetic_t<T>, int64_t, T*, arithmetic_t<T>*, \
                                         T*, int64_t, int64_t, ParallelFor);                              \
    template void project_l2<T>(const T*, const T*, PerRow<arithmetic_t<T>>, arithmetic_t<T>,             \
                                arithmetic_t<T>, int64_t, T*, int64_t, int64_t, ParallelFor);             \
    template void project_l2_backward<T>(const T*, const T*, const T*, PerRow<arithmetic_t<T>>, const T*, \
                                         arithmetic_t<T>, arithmetic_t<T>, int64_t, T*, arithmetic_t<T>*, \
                                         T*, int64_t, int64_t, ParallelFor);
INTEGRALROB_INSTANTIATE(float)
INTEGRALROB_INSTANTIATE(double)
INTEGRALROB_INSTANTIATE(Half)
INTEGRALROB_INSTANTIATE(BFloat16)

}  // namespace integralrob::INTEGRALROB_ISA_NAMESPACE
