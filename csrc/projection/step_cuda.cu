// Steps in the l1 and the l2 ball on CUDA.
#include <limits>
#include <stdexcept>
#include <string>

#include "projection/ball_cuda.cuh"
#include "projection/largest_entries.cuh"
#include "projection/projection_cuda.h"
#include "projection/projection_math.h"
#include "projection/step.h"
#include "projection/with_momentum.cuh"

namespace integralrob::cuda {
namespace {

// A norm has
//   Move                                   of an entry, from its gradient
//   find(team, entries, size, k, scratch)  the move, from the entries' first numbers, the gradient's
//   limited(team, entries, length, ...)    the formula that makes the perturbations y, their first numbers,
//                                          those that are allowed
//   room(y, x, lo, hi, eps)                how far an entry may go, as far as that is known before

template <typename T>
struct L1Norm {
    using A = arithmetic_t<T>;
    using Formula = typename L1Ball<A>::Formula;
    static constexpr size_t kScratch = DigitCounts::kBytes + Sample<T>::kBytes;
    static constexpr int kResident = 1;  // two have too few registers

    // The same for every entry that is selected; a NaN is as large as any number, and moves to NaN.
    struct Move {
        typename Selection<A>::Bits least;
        A share;

        __device__ __forceinline__ A operator()(A g, A from) const {
            const bool selected = bit_cast<decltype(least)>(static_cast<A>(fabs(g))) >= least;
            const A move = g > A(0) ? share : g < A(0) ? -share : g;
            return selected ? from + move : from;
        }
    };

    template <typename Team, typename Entries>
    static __device__ Move find(Team& team, Entries& entries, A size, unsigned k, A, unsigned char* scratch) {
        const Selection<A> selection = select_largest<T>(team, entries, k, scratch);
        return {selection.least, size / static_cast<A>(max(selection.count, uint64_t{1}))};
    }
    template <typename Team, typename Entries>
    static __device__ Formula limited(Team& team, Entries& entries, int64_t length, A eps, A scale,
                                      unsigned char* scratch) {
        return project<L1Ball<A>, T>(team, entries, length, eps, scale, scratch + DigitCounts::kBytes);
    }
    static __device__ Formula any_formula() { return L1Ball<A>::inside(); }
    static __device__ A room(A y, A x, A lo, A hi, A eps) { return limit(y, x, lo, hi, eps); }
};

// Σ (unit·x_i)²
template <typename A>
class SquareSum {
  public:
    __device__ __forceinline__ void add(A scaled, A scale) { sum_.add(sum_.term(scaled, scaled * scale)); }
    __device__ __forceinline__ FixedTotal<A> total() const { return sum_.total(); }

  private:
    FixedSum<A> sum_;
};

template <typename T>
struct L2Norm {
    using A = arithmetic_t<T>;
    using Formula = Factor<A>;
    static constexpr size_t kScratch = 0;
    static constexpr int kResident = 0;

    struct Move {
        A unit, factor;

        __device__ __forceinline__ A operator()(A g, A from) const {
            return fma(finite_part(g) * unit, factor, from);
        }
    };

    template <typename Team, typename Entries>
    static __device__ Move find(Team& team, Entries& entries, A size, unsigned, A scale, unsigned char*) {
        return length_of(team, entries, scale, [&](A largest, A unit, double length) -> Move {
            // NaN if there is one; no move along zeros.
            return {unit, static_cast<A>(largest > A(0) ? size / length : size * A(0) + largest)};
        });
    }
    template <typename Team, typename Entries>
    static __device__ Formula limited(Team& team, Entries& entries, int64_t, A eps, A scale, unsigned char*) {
        return length_of(team, entries, scale, [&](A largest, A unit, double length) -> Formula {
            if (largest != largest || eps != eps) return L2Ball<A>::not_a_number();
            const double radius = static_cast<double>(eps) * unit;
            return radius >= length ? L2Ball<A>::inside() : Formula(unit, eps / length);
        });
    }
    static __device__ Formula any_formula() { return L2Ball<A>::inside(); }
    static __device__ A room(A, A, A, A, A) { return kInfinity; }

  private:
    static constexpr A kInfinity = std::numeric_limits<A>::infinity();

    static __device__ __forceinline__ A finite_part(A x) { return copysign(magnitude(x), x); }

    // make(the largest magnitude x, the power of two `unit`, ‖unit·x‖₂)
    template <typename Team, typename Entries, typename Make>
    static __device__ auto length_of(Team& team, Entries& entries, A scale, const Make& make) {
        using Piece = typename Entries::Piece;
        Sizes<A> sizes;
        for_entries(entries,
                    [&](const Piece& piece, int lane) { sizes.take(finite_part(piece.of[0][lane])); });
        const A largest =
            team.template decide<Word>(sizes, [](Word&, const Sizes<A>& all) { return all; }).largest();
        const A unit = fixed_unit(largest), rest = fixed_unit(largest * unit);  // 1 but for subnormal numbers
        using Sums = SquareSum<A>;
        const auto total = sum_entries<Sums>(entries, [&](Sums& sums, const Piece& piece, int lane) {
            sums.add(finite_part(piece.of[0][lane]) * unit * rest, scale);
        });
        return team.template decide<Word>(total, [&](Word&, const FixedTotal<A>& total) {
            return make(largest, unit, sqrt(total.value() / scale) / rest);
        });
    }
};

// The numbers of an entry are: where it is loaded, its gradient, x_adv - x, and x; then y, how far it may go
// in its direction, and x. Stage 1 makes y from the gradient, stage 2 from what stage 1 led to.
template <typename T, template <typename> typename Norm_>
struct BallStep : Step<T> {
    using A = arithmetic_t<T>;
    using Norm = Norm_<T>;
    static constexpr size_t kScratch = Norm::kScratch;
    class Row;

    bool vectors = false;
    A scale = 1;

    template <typename Team, typename Entries>
    __device__ void run(Team& team, Row& row, Entries& entries, unsigned char* scratch) const {
        row.move = Norm::find(team, entries, row.size, row.selected, scale, scratch);
        const int stages = this->previous == nullptr ? 1 : 2;
        for (int stage = 1;; ++stage) {
            entries.advance(stage);
            const auto formula = Norm::limited(team, entries, row.length, row.eps, scale, scratch);
            if (stage == stages) {
                return for_pieces(entries,
                                  [&](int64_t k, const auto& piece) { row.store(k, piece, formula); });
            }
            row.formula = formula;
        }
    }
};

template <typename T, template <typename> typename Norm_>
class BallStep<T, Norm_>::Row {
  public:
    using Piece = cuda::Piece<T, 3>;
    static constexpr int kStages = 2, kPiecesOnTheirWay = sizeof(T) == 2 ? 1 : 2;
    static constexpr int kResident = Norm::kResident;
    const A size, eps;  // a NaN in the former is one in the latter
    const unsigned selected;
    const int64_t length;
    typename Norm::Move move;
    typename Norm::Formula formula;

    __device__ Row(const BallStep& step, int64_t row)
        : size(step.size[row]),
          eps(size == size ? radius(step.eps[row]) : size),
          selected(step.kept[row] < 1             ? 1
                   : step.kept[row] < step.length ? step.kept[row]
                                                  : step.length),
          length(step.length),
          formula(Norm::any_formula()),
          step_(step),
          memory_(row, step.length, step.vectors) {}

    __device__ Piece load(int64_t k) const {
        const Vector<T> x_adv = memory_.load(step_.x_adv, k), grad = memory_.load(step_.grad, k),
                        x = memory_.load(step_.x, k);
        Piece piece;
#pragma unroll
        for (int lane = 0; lane < kLanes<T>; ++lane) {
            const A from = widen(x.lane[lane]);
            piece.of[0][lane] = widen(grad.lane[lane]);
            piece.of[1][lane] = A(widen(x_adv.lane[lane])) - from;
            piece.of[2][lane] = from;
        }
        return piece;
    }

    __device__ void advance(int stage, int64_t k, Piece& piece) const {
        if (stage == 1) {
#pragma unroll
            for (int lane = 0; lane < kLanes<T>; ++lane) {
                set(piece, k, lane, move(piece.of[0][lane], piece.of[1][lane]));
            }
        } else {
            const Vector<T> x_adv = memory_.load(step_.x_adv, k), previous = memory_.load(step_.previous, k);
#pragma unroll
            for (int lane = 0; lane < kLanes<T>; ++lane) {
                const A x = piece.of[2][lane], from = widen(x_adv.lane[lane]);
                const A z = clip(x + delta(piece, lane, formula), step_.lo, step_.hi);
                const A moved = with_momentum(z, from, A(widen(previous.lane[lane])), step_.momentum);
                set(piece, k, lane, (from - x) + moved);
            }
        }
    }

    __device__ void store(int64_t k, const Piece& piece, const typename Norm::Formula& formula) const {
        Vector<T> out;
#pragma unroll
        for (int lane = 0; lane < kLanes<T>; ++lane) {
            const A to = moved<T>(piece.of[2][lane], delta(piece, lane, formula));
            out.lane[lane] = narrow<T>(clip(to, step_.lo, step_.hi));
        }
        memory_.store(step_.out, k, out);
    }

  private:
    const BallStep& step_;
    RowMemory<T> memory_;

    __device__ void set(Piece& piece, int64_t k, int lane, A y) const {
        const A room = Norm::room(y, piece.of[2][lane], step_.lo, step_.hi, eps);
        piece.of[0][lane] = bounded(y, room, eps);
        piece.of[1][lane] = k + lane < length ? room : A(0);
    }
    static __device__ A delta(const Piece& piece, int lane, const typename Norm::Formula& formula) {
        const A y = piece.of[0][lane];
        return copysign(formula(A(fabs(y)), piece.of[1][lane]), y);
    }
};

// `place`: for tests.
template <template <typename> typename Norm, typename T>
void take_step(const Step<T>& step, const char* purpose, Place place, const Device& device,
               cudaStream_t stream) {
    if (step.length > std::numeric_limits<unsigned>::max()) {
        throw std::runtime_error(std::string(purpose) + ": expected rows of less than 2^32 entries");
    }
    BallStep<T, Norm> task{step};
    task.vectors =
        step.length % kLanes<T> == 0 && aligned16(step.x_adv, step.grad, step.x, step.previous, step.out);
    task.scale = scale_of_sums<arithmetic_t<T>>(step.length);
    launch_rows(task, purpose, place, device, stream);
}

}  // namespace

template <typename T>
void l1_step(const Step<T>& step, cudaStream_t stream) {
    take_step<L1Norm>(step, "l1_step", Place::kAny, Device::current(), stream);
}

template <typename T>
void l2_step(const Step<T>& step, cudaStream_t stream) {
    take_step<L2Norm>(step, "l2_step", Place::kAny, Device::current(), stream);
}

#define INTEGRALROB_INSTANTIATE(T)                          \
    template void l1_step<T>(const Step<T>&, cudaStream_t); \
    template void l2_step<T>(const Step<T>&, cudaStream_t);
INTEGRALROB_INSTANTIATE(float)
INTEGRALROB_INSTANTIATE(double)
INTEGRALROB_INSTANTIATE(Half)
INTEGRALROB_INSTANTIATE(BFloat16)

}  // namespace integralrob::cuda
