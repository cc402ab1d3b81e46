// Backward pass of the projection onto the l-infinity ball within a box on CUDA.
#include "projection/fixed_sum.cuh"
#include "projection/projection_cuda.h"
#include "projection/projection_math.h"
#include "projection/row_entries.cuh"

namespace integralrob::cuda {
namespace {

// The largest of some magnitudes, as bits: NaN is more than any number.
template <typename A>
struct Largest {
    uint64_t bits = 0;

    __device__ void take(A x) {
        using Bits = std::conditional_t<sizeof(A) == 4, uint32_t, uint64_t>;
        bits = max(bits, uint64_t{bit_cast<Bits>(static_cast<A>(fabs(x)))});
    }
    __device__ void merge(const Largest& other) { bits = max(bits, other.bits); }
    __device__ A value() const {
        using Bits = std::conditional_t<sizeof(A) == 4, uint32_t, uint64_t>;
        return bit_cast<A>(static_cast<Bits>(bits));
    }
};

template <typename A>
class Sum {
  public:
    __device__ void add(A x, A y) { sum_.add(sum_.term(x, y)); }
    __device__ FixedTotal<A> total() const { return sum_.total(); }

  private:
    FixedSum<A> sum_;
};

// On each entry the result is one of: delta, ±ε, a bound less the center, or 0 (center outside of the
// bounds). The gradient goes to what it is; one on a limit, to delta.
template <typename T>
struct LinfGradient {
    using A = arithmetic_t<T>;
    static constexpr size_t kScratch = 0;
    class Row;

    const T *grad, *delta, *center;  // center may be null
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
        Largest<A> of_thread;
        for_pieces(entries, [&](int64_t k, const Piece& piece) {
            Vector<T> of_delta, of_center;
#pragma unroll
            for (int lane = 0; lane < kLanes<T>; ++lane) {
                const auto entry = row.entry(piece, lane);
                of_thread.take(entry.of_eps);
                of_delta.lane[lane] = entry.of_delta;
                of_center.lane[lane] = entry.of_center;
            }
            row.store(k, of_delta, of_center);
        });
        const A largest =
            team.template decide<Word>(of_thread, [](Word&, const Largest<A>& all) { return all; }).value();
        const A unit = fixed_unit(largest);
        const auto of_thread_sum =
            sum_entries<Sum<A>>(entries, [&](Sum<A>& sum, const Piece& piece, int lane) {
                sum.add(row.entry(piece, lane).of_eps * unit, scale);
            });
        const double sum = team.template decide<Word>(
            of_thread_sum, [&](Word&, const FixedTotal<A>& total) { return total.value() / unit / scale; });
        // Infinite gradients have no such sum.
        const A known = largest <= kLargest<A> ? A(0) : largest - largest;
        if (team.rank() == 0) *row.grad_eps = static_cast<A>(sum) + known;
    }
};

template <typename T>
class LinfGradient<T>::Row {
  public:
    struct Piece {
        static constexpr int kEntries = kLanes<T>;
        Vector<T> grad, delta, center;
    };
    static constexpr int kStages = 0, kPiecesOnTheirWay = 2;
    const A eps;
    const int64_t length;
    A* const grad_eps;

    __device__ Row(const LinfGradient& p, int64_t row)
        : eps(p.eps[row]),
          length(p.length),
          grad_eps(p.grad_eps + row),
          p_(p),
          memory_(row, p.length, p.vectors) {}

    __device__ Piece load(int64_t k) const {
        Piece piece{memory_.load(p_.grad, k), memory_.load(p_.delta, k), {}};
        if (p_.center != nullptr) piece.center = memory_.load(p_.center, k);
        return piece;
    }

    struct Entry {
        T of_delta, of_center;
        A of_eps;
    };
    __device__ Entry entry(const Piece& piece, int lane) const {
        const T grad = piece.grad.lane[lane];
        const A g = widen(grad), y = widen(piece.delta.lane[lane]);
        A least = -eps, most = eps;
        if (p_.center != nullptr) {
            const A c = widen(piece.center.lane[lane]);
            least = nan_max(least, nan_min(p_.lo - c, A(0)));
            most = nan_min(most, nan_max(p_.hi - c, A(0)));
        }
        const bool above = y > most, below = y < least;
        const bool by_box = (above && most < eps && most > A(0)) || (below && least > -eps && least < A(0));
        return {above || below ? T{} : grad, narrow<T>(by_box ? -g : A(0)),
                above && most == eps     ? g
                : below && least == -eps ? -g
                                         : A(0)};
    }
    __device__ void store(int64_t k, const Vector<T>& of_delta, const Vector<T>& of_center) const {
        memory_.store(p_.grad_delta, k, of_delta);
        if (p_.grad_center != nullptr) memory_.store(p_.grad_center, k, of_center);
    }

  private:
    const LinfGradient& p_;
    RowMemory<T> memory_;
};

template <typename T>
void find_gradients(LinfGradient<T> p, Place place, bool clusters, cudaStream_t stream) {
    p.vectors =
        p.length % kLanes<T> == 0 && aligned16(p.grad, p.delta, p.center, p.grad_delta, p.grad_center);
    p.scale = scale_of_sums<arithmetic_t<T>>(p.length);
    stream_rows(p, "project_linf_backward", place, clusters, stream);
}

}  // namespace

template <typename T>
void project_linf_backward(const T* grad, const T* delta, PerRow<arithmetic_t<T>> eps, const T* center,
                           arithmetic_t<T> lo, arithmetic_t<T> hi, int64_t rows, int64_t length,
                           T* grad_delta, arithmetic_t<T>* grad_eps, T* grad_center, cudaStream_t stream) {
    find_gradients<T>({grad, delta, center, eps, lo, hi, rows, length, grad_delta, grad_eps, grad_center},
                      Place::kAny, has_clusters(), stream);
}

#define INTEGRALROB_INSTANTIATE(T)                                                                 \
    template void project_linf_backward<T>(const T*, const T*, PerRow<arithmetic_t<T>>, const T*,  \
                                           arithmetic_t<T>, arithmetic_t<T>, int64_t, int64_t, T*, \
                                           arithmetic_t<T>*, T*, cudaStream_t);
INTEGRALROB_INSTANTIATE(float)
INTEGRALROB_INSTANTIATE(double)
INTEGRALROB_INSTANTIATE(Half)
INTEGRALROB_INSTANTIATE(BFloat16)

}  // namespace integralrob::cuda
