// Backward passes of the projections onto the l1 and the l2 ball within a box on CUDA. A row is read three
// times, by threads that keep nothing of it: from the second time on it comes from the caches.
//
// The sums are fixed-point numbers (fixed_sum.cuh): the number of threads leaves no trace in the result.
#include <cmath>
#include <limits>

#include "common/launch.cuh"
#include "common/vector.cuh"
#include "projection/ball_search.h"
#include "projection/fixed_sum.cuh"
#include "projection/projection_cuda.h"
#include "projection/row_team.cuh"

namespace integralrob::cuda {
namespace {

template <typename A>
constexpr A kNoNumber = std::numeric_limits<A>::quiet_NaN();
template <typename A>
constexpr A kInfinity = std::numeric_limits<A>::infinity();

template <typename T>
struct Problem {
    using A = arithmetic_t<T>;
    const T *grad, *delta, *result, *center;  // center may be null
    PerRow<A> eps;
    A lo, hi;
    int64_t rows, length;
    T* grad_delta;
    A* grad_eps;
    T* grad_center;        // null without center
    bool vectors = false;  // rows are made of whole vectors, all aligned
    A scale = 1;           // a power of two that makes the sums of a row of this length fit fixed point
};

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
};

template <typename T>
class Row {
    using A = arithmetic_t<T>;

  public:
    __device__ Row(const Problem<T>& p, int64_t row) : p_(p), first_(row * p.length) {}

    // body(k, entry) for each 16 bytes of the thread, from entry k on; entry(lane) is one of these. Zeros at
    // the end.
    template <typename Team, typename Piece>
    __device__ void each_piece(const Team& team, const Piece& body) const {
        const int64_t step = int64_t{team.size()} * kLanes<T>;
#pragma unroll(sizeof(T) == 2 ? 1 : 2)
        for (int64_t k = int64_t{team.rank()} * kLanes<T>; k < p_.length; k += step) {
            const Vector<T> grad = part(p_.grad, k), delta = part(p_.delta, k), result = part(p_.result, k);
            Vector<T> center{};
            if (p_.center != nullptr) center = part(p_.center, k);
            body(k, [&](int lane) {
                const A room = p_.center == nullptr
                                   ? kInfinity<A>
                                   : limit(A(widen(delta.lane[lane])), A(widen(center.lane[lane])), p_.lo,
                                           p_.hi, kInfinity<A>);
                return Entry<T>(grad.lane[lane], delta.lane[lane], result.lane[lane], room);
            });
        }
    }

    __device__ void store(T* to, int64_t k, const Vector<T>& values) const {
        to += first_ + k;
        if (p_.vectors) return cuda::store(to, values);
#pragma unroll
        for (int lane = 0; lane < kLanes<T>; ++lane) {
            if (k + lane < p_.length) to[lane] = values.lane[lane];
        }
    }

  private:
    const Problem<T>& p_;
    int64_t first_;

    __device__ Vector<T> part(const T* from, int64_t k) const {
        from += first_ + k;
        if (p_.vectors) return cuda::load(from);
        Vector<T> part;
#pragma unroll
        for (int lane = 0; lane < kLanes<T>; ++lane) {
            part.lane[lane] = k + lane < p_.length ? from[lane] : T{};
        }
        return part;
    }
};

// The largest magnitudes of a row's free entries, as bits: NaN is more than any number; and whether it is on
// the sphere.
template <typename A>
struct Sizes {
    using Bits = typename FixedPoint<A>::Bits;
    Bits g = 0, m = 0, a = 0, on_sphere = 0;

    template <typename T>
    __device__ void take(const Entry<T>& entry, bool free) {
        on_sphere |= entry.cut();
        if (!free) return;
        g = max(g, bit_cast<Bits>(static_cast<A>(fabs(entry.g))));
        m = max(m, bit_cast<Bits>(entry.m));
        a = max(a, bit_cast<Bits>(entry.size));
    }
    __device__ void merge(const Sizes& other) {
        g = max(g, other.g), m = max(m, other.m), a = max(a, other.a);
        on_sphere |= other.on_sphere;
    }
};

// `mean` is κ of ball_search.h.
template <typename A>
struct Means {
    A mean = 0, s = 1, grad_eps = 0;
    A unused = 0;  // whole words
};

// The formulas are in ball_search.h.
template <typename A>
struct L1Gradient {
    struct Total {
        FixedTotal<A> gd;
        uint64_t free = 0;
        __device__ void merge(const Total& other) {
            gd.merge(other.gd);
            free += other.free;
        }
    };
    // `scale` is that of Problem.
    class Sums {
      public:
        template <typename T>
        __device__ void add(const Entry<T>& e, A g_unit, A, A, A scale) {
            gd_.add(gd_.term(e.g * g_unit, e.sign * scale));
            ++free_;
        }
        __device__ Total total() const { return {gd_.total(), free_}; }

      private:
        FixedSum<A> gd_;
        uint32_t free_ = 0;
    };
    static __device__ Means<A> means(const Total& total, double g_unit, double, double, double scale, A) {
        const A mean =
            total.free == 0 ? A(0) : static_cast<A>(total.gd.value() / (g_unit * scale) / total.free);
        return {mean, A(1), mean};
    }
    template <typename T>
    static __device__ bool free(const Entry<T>& e) {
        return !e.clipped() && e.m > A(0);
    }
    template <typename T>
    static __device__ A direction(const Entry<T>& e) {
        return e.sign;
    }
};

// s² = Σ_F δ_i² / Σ_F y_i²
template <typename A>
struct L2Gradient {
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
        __device__ void add(const Entry<T>& e, A g_unit, A m_unit, A a_unit, A scale) {
            const A d = e.projected * m_unit, y = e.size * a_unit;
            gd_.add(gd_.term(e.g * g_unit, d * scale));
            dd_.add(dd_.term(d, d * scale));
            yy_.add(yy_.term(y, y * scale));
        }
        __device__ Total total() const { return {gd_.total(), dd_.total(), yy_.total()}; }

      private:
        FixedSum<A> gd_, dd_, yy_;
    };
    static __device__ Means<A> means(const Total& total, double g_unit, double m_unit, double a_unit, double,
                                     A eps) {
        if (total.dd.steps == 0) return {};
        const double dd = total.dd.value();
        const A mean = static_cast<A>(total.gd.value() / dd * (m_unit / g_unit));
        return {mean, static_cast<A>(sqrt(dd / total.yy.value()) * (a_unit / m_unit)), eps * mean};
    }
    template <typename T>
    static __device__ bool free(const Entry<T>& e) {
        return !e.clipped();
    }
    template <typename T>
    static __device__ A direction(const Entry<T>& e) {
        return e.projected;
    }
};

template <typename Team, int kThreads, typename Gradient, typename T>
__global__ void __launch_bounds__(kThreads) project_rows_backward(Problem<T> p) {
    using A = arithmetic_t<T>;
    // Entries of a thread's sums between two flushes into its total.
    constexpr int kTerms = 256;
    Team team;
    for (int64_t r = team.first_row(); r < p.rows; r += team.row_step()) {
        const Row<T> row(p, r);
        Sizes<A> sizes;
        row.each_piece(team, [&](int64_t, const auto& entry) {
#pragma unroll
            for (int lane = 0; lane < kLanes<T>; ++lane) {
                const Entry<T> e = entry(lane);
                sizes.take(e, Gradient::free(e));
            }
        });
        sizes = team.reduce(sizes);
        sizes = team.share([&] { return sizes; });

        Means<A> means;
        if (sizes.on_sphere) {
            const A g_unit = fixed_unit(bit_cast<A>(sizes.g)), m_unit = fixed_unit(bit_cast<A>(sizes.m)),
                    a_unit = fixed_unit(bit_cast<A>(sizes.a));
            typename Gradient::Total total{};
            typename Gradient::Sums sums;
            int terms = 0;
            row.each_piece(team, [&](int64_t, const auto& entry) {
#pragma unroll
                for (int lane = 0; lane < kLanes<T>; ++lane) {
                    const Entry<T> e = entry(lane);
                    if (Gradient::free(e)) sums.add(e, g_unit, m_unit, a_unit, p.scale);
                }
                terms += kLanes<T>;
                if (terms == kTerms) {
                    total.merge(sums.total());
                    sums = {};
                    terms = 0;
                }
            });
            total.merge(sums.total());
            total = team.reduce(total);
            means = team.share([&] {
                Means<A> result = Gradient::means(total, g_unit, m_unit, a_unit, p.scale, radius(p.eps[r]));
                if (!(bit_cast<A>(sizes.g) <= kLargest<A>)) result.mean = result.grad_eps = kNoNumber<A>;
                return result;
            });
        }
        if (team.rank() == 0) p.grad_eps[r] = means.grad_eps;
        row.each_piece(team, [&](int64_t k, const auto& entry) {
            Vector<T> grad_delta, grad_center;
#pragma unroll
            for (int lane = 0; lane < kLanes<T>; ++lane) {
                const Entry<T> e = entry(lane);
                const A moved = fma(-means.mean, Gradient::direction(e), e.g);
                const bool follows = sizes.on_sphere ? Gradient::free(e) : !e.clipped();
                grad_delta.lane[lane] = narrow<T>(follows ? means.s * moved : A(0));
                grad_center.lane[lane] = narrow<T>(e.moves_with_center() ? -moved : A(0));
            }
            row.store(p.grad_delta, k, grad_delta);
            if (p.grad_center != nullptr) row.store(p.grad_center, k, grad_center);
        });
    }
    team.finish();
}

enum class Threads { kAny, kWarp, kBlock, kCluster };

constexpr int kSmallThreads = 128, kLargeThreads = 512;
constexpr int64_t kOfThread = 32;  // entries at most, where more threads can have them

// `threads`: for tests; kAny chooses.
template <template <typename> typename Gradient_, typename T>
void project_ball_backward(Problem<T> p, const char* purpose, Threads threads, bool clusters,
                           cudaStream_t stream) {
    using Gradient = Gradient_<arithmetic_t<T>>;
    using Block = BlockTeam<kSmallThreads, false>;
    using Cluster = BlockTeam<kLargeThreads, true>;
    p.vectors = p.length % kLanes<T> == 0 &&
                aligned16(p.grad, p.delta, p.result, p.center, p.grad_delta, p.grad_center);
    for (int64_t n = FixedTotal<arithmetic_t<T>>::kRange; n < p.length; n *= 2) p.scale /= 2;
    if (threads == Threads::kAny) {
        threads = p.length <= kOfThread * kWarp           ? Threads::kWarp
                  : p.length <= kOfThread * kSmallThreads ? Threads::kBlock
                                                          : Threads::kCluster;
    }
    Launch shape = {.blocks = p.rows, .threads = kSmallThreads, .purpose = purpose};
    switch (threads) {
        case Threads::kWarp:
            shape.blocks = ceil_div<int64_t>(p.rows, kSmallThreads / kWarp);
            return launch(project_rows_backward<WarpTeam, kSmallThreads, Gradient, T>, shape, stream, p);
        case Threads::kBlock:
            shape.shared_bytes = Block::kSharedBytes;
            return launch(project_rows_backward<Block, kSmallThreads, Gradient, T>, shape, stream, p);
        default:
            shape.threads = kLargeThreads;
            while (clusters && shape.cluster < 8 && shape.cluster * kLargeThreads * kOfThread < p.length) {
                shape.cluster *= 2;
            }
            shape.blocks = p.rows * shape.cluster;
            shape.shared_bytes = Cluster::kSharedBytes;
            return launch(project_rows_backward<Cluster, kLargeThreads, Gradient, T>, shape, stream, p);
    }
}

}  // namespace

template <typename T>
void project_l1_backward(const T* grad, const T* delta, const T* result, PerRow<arithmetic_t<T>> eps,
                         const T* center, arithmetic_t<T> lo, arithmetic_t<T> hi, int64_t rows,
                         int64_t length, T* grad_delta, arithmetic_t<T>* grad_eps, T* grad_center,
                         cudaStream_t stream) {
    project_ball_backward<L1Gradient, T>(
        {grad, delta, result, center, eps, lo, hi, rows, length, grad_delta, grad_eps, grad_center},
        "project_l1_backward", Threads::kAny, has_clusters(), stream);
}

template <typename T>
void project_l2_backward(const T* grad, const T* delta, const T* result, PerRow<arithmetic_t<T>> eps,
                         const T* center, arithmetic_t<T> lo, arithmetic_t<T> hi, int64_t rows,
                         int64_t length, T* grad_delta, arithmetic_t<T>* grad_eps, T* grad_center,
                         cudaStream_t stream) {
    project_ball_backward<L2Gradient, T>(
        {grad, delta, result, center, eps, lo, hi, rows, length, grad_delta, grad_eps, grad_center},
        "project_l2_backward", Threads::kAny, has_clusters(), stream);
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
