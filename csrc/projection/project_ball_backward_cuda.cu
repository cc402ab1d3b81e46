// Backward passes of the projections onto the l1 and the l2 ball within a box on CUDA. A row is read three
// times. The sums are fixed-point numbers (fixed_sum.cuh): the number of threads leaves no trace in them.
#include <cmath>
#include <limits>

#include "projection/ball_search.h"
#include "projection/fixed_sum.cuh"
#include "projection/projection_cuda.h"
#include "projection/row_entries.cuh"

namespace integralrob::cuda {
namespace {

template <typename A>
constexpr A kNoNumber = std::numeric_limits<A>::quiet_NaN();
template <typename A>
constexpr A kInfinity = std::numeric_limits<A>::infinity();

// With the gradient g of its projection, its sign and its size, a finite one.
template <typename T>
struct Entry : ProjectedEntry<T> {
    using A = arithmetic_t<T>;
    A g, sign, projected, size;

    __device__ Entry(T grad, T delta, T result, A room)
        : ProjectedEntry<T>(delta, result, room),
          g(widen(grad)),
          sign(copysign(A(1), A(widen(delta)))),
          projected(widen(result)),
          size(magnitude(A(widen(delta)))) {}

    // On the sphere: whether κ is a mean over this entry.
    __device__ bool free() const { return this->m > A(0) && !this->clipped(); }
};

// The largest magnitudes of a row's free entries, as bits: NaN is more than any number; and whether it is on
// the sphere.
template <typename A>
struct Sizes {
    using Bits = std::conditional_t<sizeof(A) == 4, uint32_t, uint64_t>;
    Bits g = 0, m = 0, a = 0, on_sphere = 0;

    template <typename T>
    __device__ void take(const Entry<T>& entry) {
        on_sphere |= entry.cut();
        if (!entry.free()) return;
        g = max(g, bit_cast<Bits>(static_cast<A>(fabs(entry.g))));
        m = max(m, bit_cast<Bits>(entry.m));
        a = max(a, bit_cast<Bits>(entry.size));
    }
    __device__ void merge(const Sizes& other) {
        g = max(g, other.g), m = max(m, other.m), a = max(a, other.a);
        on_sphere |= other.on_sphere;
    }
};

// Powers of two for what is summed: of g, of m, of a, and of the sums of a long row.
template <typename A>
struct Units {
    A g, m, a, scale;

    __device__ Units(const Sizes<A>& sizes, A scale_)
        : g(fixed_unit(bit_cast<A>(sizes.g))),
          m(fixed_unit(bit_cast<A>(sizes.m))),
          a(fixed_unit(bit_cast<A>(sizes.a))),
          scale(scale_) {}
};

// For the formulas of ball_search.h: κ by `unit`, which d is to be multiplied with.
template <typename A>
struct Means {
    A mean = 0, unit = 1, s = 1, grad_eps = 0;
};

template <typename A>
struct L1Gradient {
    static constexpr bool kL2 = false;
    struct Total {
        FixedTotal<A> gd;
        uint64_t free = 0;
        __device__ void merge(const Total& other) {
            gd.merge(other.gd);
            free += other.free;
        }
    };
    class Sums {
      public:
        template <typename T>
        __device__ void add(const Entry<T>& e, const Units<A>& unit) {
            gd_.add(gd_.term(e.g * unit.g, e.sign * unit.scale));
            ++free_;
        }
        __device__ Total total() const { return {gd_.total(), free_}; }

      private:
        FixedSum<A> gd_;
        uint32_t free_ = 0;
    };
    static __device__ Means<A> means(const Total& total, const Units<A>& unit, A) {
        if (total.free == 0) return {};
        const double gd = total.gd.value() / (static_cast<double>(unit.g) * unit.scale);
        const A mean = static_cast<A>(gd / static_cast<double>(total.free));
        return {mean, A(1), A(1), mean};
    }
    template <typename T>
    static __device__ A direction(const Entry<T>& e) {
        return e.sign;
    }
};

// s² = Σ_F δ_i² / Σ_F y_i²
template <typename A>
struct L2Gradient {
    static constexpr bool kL2 = true;
    struct Total {
        FixedTotal<A> gd, dd, yy;
        __device__ void merge(const Total& other) {
            gd.merge(other.gd);
            dd.merge(other.dd);
            yy.merge(other.yy);
        }
    };
    class Sums {
      public:
        template <typename T>
        __device__ void add(const Entry<T>& e, const Units<A>& unit) {
            const A d = e.projected * unit.m, y = e.size * unit.a;
            gd_.add(gd_.term(e.g * unit.g, d * unit.scale));
            dd_.add(dd_.term(d, d * unit.scale));
            yy_.add(yy_.term(y, y * unit.scale));
        }
        __device__ Total total() const { return {gd_.total(), dd_.total(), yy_.total()}; }

      private:
        FixedSum<A> gd_, dd_, yy_;
    };
    static __device__ Means<A> means(const Total& total, const Units<A>& unit, A eps) {
        if (total.dd.is_zero()) return {A(0), A(1), A(0), A(0)};
        const double dd = total.dd.value(), of_g = unit.g, of_m = unit.m, of_a = unit.a;
        // δ is brought to the size of ε, where κ does not overflow.
        const A of_eps = inverse_power(eps);
        const A mean = static_cast<A>(total.gd.value() / dd * (of_m / (of_g * of_eps)));
        const A s = static_cast<A>(sqrt(dd / total.yy.value()) * (of_a / of_m));
        return {mean, of_eps, s, (eps * of_eps) * mean};
    }
    template <typename T>
    static __device__ A direction(const Entry<T>& e) {
        return e.projected;
    }
};

template <typename T, template <typename> typename Gradient_>
struct ProjectionGradient {
    using A = arithmetic_t<T>;
    using Gradient = Gradient_<A>;
    static constexpr size_t kScratch = 0;
    class Row;

    const T *grad, *delta, *result, *center;  // center may be null
    PerRow<A> eps;
    A lo, hi;
    int64_t rows, length;
    T* grad_delta;
    A* grad_eps;
    T* grad_center;  // null without center
    bool vectors = false;
    A scale = 1;

    template <typename Team, typename Entries>
    __device__ void run(Team& team, const Row& row, Entries& entries, unsigned char*) const {
        using Piece = typename Row::Piece;
        Sizes<A> of_thread;
        for_entries(entries, [&](const Piece& piece, int lane) { of_thread.take(row.entry(piece, lane)); });
        const auto sizes =
            team.template decide<Word>(of_thread, [](Word&, const Sizes<A>& all) { return all; });

        Means<A> means;
        if (sizes.on_sphere) {
            const Units<A> unit(sizes, scale);
            using Sums = typename Gradient::Sums;
            const auto of_thread = sum_entries<Sums>(entries, [&](Sums& sums, const Piece& piece, int lane) {
                const Entry<T> e = row.entry(piece, lane);
                if (e.free()) sums.add(e, unit);
            });
            means = team.template decide<Word>(of_thread, [&](Word&, const auto& total) {
                Means<A> means = Gradient::means(total, unit, row.eps);
                if (!(bit_cast<A>(sizes.g) <= kLargest<A>)) means.mean = means.grad_eps = kNoNumber<A>;
                return means;
            });
        }
        if (team.rank() == 0) *row.grad_eps = means.grad_eps;
        for_pieces(entries, [&](int64_t k, const Piece& piece) {
            Vector<T> of_delta, of_center;
#pragma unroll
            for (int lane = 0; lane < kLanes<T>; ++lane) {
                const Entry<T> e = row.entry(piece, lane);
                const A moved = fma(-means.mean, Gradient::direction(e) * means.unit, e.g);
                const bool follows = e.template follows<Gradient::kL2>(sizes.on_sphere != 0);
                of_delta.lane[lane] = narrow<T>(follows ? means.s * moved : A(0));
                of_center.lane[lane] = narrow<T>(e.moves_with_center() ? -moved : A(0));
            }
            row.store(k, of_delta, of_center);
        });
    }
};

template <typename T, template <typename> typename Gradient>
class ProjectionGradient<T, Gradient>::Row {
  public:
    struct Piece {
        static constexpr int kEntries = kLanes<T>;
        Vector<T> grad, delta, result, center;
    };
    static constexpr int kStages = 0, kPiecesOnTheirWay = sizeof(T) == 2 ? 1 : 2;
    const A eps;
    const int64_t length;
    A* const grad_eps;

    __device__ Row(const ProjectionGradient& p, int64_t row)
        : eps(radius(p.eps[row])),
          length(p.length),
          grad_eps(p.grad_eps + row),
          p_(p),
          memory_(row, p.length, p.vectors) {}

    __device__ Piece load(int64_t k) const {
        Piece piece{memory_.load(p_.grad, k), memory_.load(p_.delta, k), memory_.load(p_.result, k), {}};
        if (p_.center != nullptr) piece.center = memory_.load(p_.center, k);
        return piece;
    }
    __device__ Entry<T> entry(const Piece& piece, int lane) const {
        const T y = piece.delta.lane[lane];
        const A room = p_.center == nullptr ? kInfinity<A>
                                            : limit(A(widen(y)), A(widen(piece.center.lane[lane])), p_.lo,
                                                    p_.hi, kInfinity<A>);
        return Entry<T>(piece.grad.lane[lane], y, piece.result.lane[lane], room);
    }
    __device__ void store(int64_t k, const Vector<T>& of_delta, const Vector<T>& of_center) const {
        memory_.store(p_.grad_delta, k, of_delta);
        if (p_.grad_center != nullptr) memory_.store(p_.grad_center, k, of_center);
    }

  private:
    const ProjectionGradient& p_;
    RowMemory<T> memory_;
};

template <template <typename> typename Gradient, typename T>
void project_ball_backward(ProjectionGradient<T, Gradient> p, const char* purpose, Place place, bool clusters,
                           cudaStream_t stream) {
    p.vectors = p.length % kLanes<T> == 0 &&
                aligned16(p.grad, p.delta, p.result, p.center, p.grad_delta, p.grad_center);
    p.scale = scale_of_sums<arithmetic_t<T>>(p.length);
    stream_rows(p, purpose, place, clusters, stream);
}

}  // namespace

template <typename T>
void project_l1_backward(const T* grad, const T* delta, const T* result, PerRow<arithmetic_t<T>> eps,
                         const T* center, arithmetic_t<T> lo, arithmetic_t<T> hi, int64_t rows,
                         int64_t length, T* grad_delta, arithmetic_t<T>* grad_eps, T* grad_center,
                         cudaStream_t stream) {
    project_ball_backward<L1Gradient, T>(
        {grad, delta, result, center, eps, lo, hi, rows, length, grad_delta, grad_eps, grad_center},
        "project_l1_backward", Place::kAny, has_clusters(), stream);
}

template <typename T>
void project_l2_backward(const T* grad, const T* delta, const T* result, PerRow<arithmetic_t<T>> eps,
                         const T* center, arithmetic_t<T> lo, arithmetic_t<T> hi, int64_t rows,
                         int64_t length, T* grad_delta, arithmetic_t<T>* grad_eps, T* grad_center,
                         cudaStream_t stream) {
    project_ball_backward<L2Gradient, T>(
        {grad, delta, result, center, eps, lo, hi, rows, length, grad_delta, grad_eps, grad_center},
        "project_l2_backward", Place::kAny, has_clusters(), stream);
}

#define INTEGRALROB_INSTANTIATE(T)                                                                        \
    template void project_l1_backward<T>(const T*, const T*, const T*, PerRow<arithmetic_t<T>>, const T*, \
                                         arithmetic_t<T>, arithmetic_t<T>, int64_t, int64_t, T*,          \
                                         arithmetic_t<T>*, T*, cudaStream_t);                             \
    template void project_l2_backward<T>(const T*, const T*, const T*, PerRow<arithmetic_t<T>>, const T*, \
                                         arithmetic_t<T>, arithmetic_t<T>, int64_t, int64_t, T*,          \
                                         arithmetic_t<T>*, T*, cudaStream_t);
INTEGRALROB_INSTANTIATE(float)
INTEGRALROB_INSTANTIATE(double)
INTEGRALROB_INSTANTIATE(Half)
INTEGRALROB_INSTANTIATE(BFloat16)

}  // namespace integralrob::cuda
