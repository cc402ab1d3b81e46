// Projections onto the l1 and the l2 ball within a box on CUDA.
//
// A row stays on the chip from its first pass to its last, so that each tensor crosses the device's memory
// once: in the registers of a warp or of a block, or in the shared memory of a cluster of blocks. Longer rows
// are read again in each pass. The sums of the search are fixed-point numbers (fixed_sum.cuh), which makes a
// row's projection the same, bit for bit, whichever way it is taken.
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

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// ---------------------------------------------------------------------------------------- the entries of a
// row

template <typename T>
struct Problem {
    using A = arithmetic_t<T>;
    const T *delta, *center;  // center may be null
    PerRow<A> eps;
    A lo, hi;
    int64_t rows, length;
    T* out;
    bool vectors = false;  // rows are made of whole vectors, all aligned
    A scale = 1;           // a power of two that makes the sums of a row of this length fit fixed point
};

// As many entries as 16 bytes of the tensor hold: y, bounded or NaN, and how far each may go in its
// direction. Zeros where the row is at its end.
template <typename T>
struct Piece {
    arithmetic_t<T> y[kLanes<T>], limit[kLanes<T>];
};

template <typename T>
class Row {
    using A = arithmetic_t<T>;

  public:
    const A eps;
    const int64_t length;

    __device__ Row(const Problem<T>& p, int64_t row)
        : eps(radius(p.eps[row])), length(p.length), p_(p), first_(row * p.length) {}

    __device__ Piece<T> load(int64_t k) const {
        const Vector<T> y = part(p_.delta, k);
        Vector<T> center{};
        if (p_.center != nullptr) center = part(p_.center, k);
        Piece<T> piece;
#pragma unroll
        for (int lane = 0; lane < kLanes<T>; ++lane) {
            const A x = widen(y.lane[lane]);
            const A most = p_.center == nullptr
                               ? eps
                               : integralrob::limit(x, A(widen(center.lane[lane])), p_.lo, p_.hi, eps);
            // All that is not a number shows in y.
            const A size = magnitude(x) + (most != most || eps != eps ? most + eps : A(0));
            piece.y[lane] = copysign(size, x);
            piece.limit[lane] = k + lane < length ? most : A(0);
        }
        return piece;
    }

    // The entries formula(|y|, limit), with the signs of y.
    template <typename Formula>
    __device__ void store(int64_t k, const Piece<T>& piece, const Formula& formula) const {
        Vector<T> out;
#pragma unroll
        for (int lane = 0; lane < kLanes<T>; ++lane) {
            const A y = piece.y[lane];
            out.lane[lane] = signed_entry(formula(fabs(y), piece.limit[lane]), narrow<T>(y));
        }
        T* to = p_.out + first_ + k;
        if (p_.vectors) {
            cuda::store(to, out);
        } else {
#pragma unroll
            for (int lane = 0; lane < kLanes<T>; ++lane) {
                if (k + lane < length) to[lane] = out.lane[lane];
            }
        }
    }

    // The same for the pieces of all kernels: a power of two that makes the entries of the result less than
    // 1/2.
    __device__ A unit() const { return fixed_unit(eps) * p_.scale; }

  private:
    const Problem<T>& p_;
    int64_t first_;

    __device__ Vector<T> part(const T* from, int64_t k) const {
        from += first_ + k;
        if (p_.vectors) return cuda::load(from);
        Vector<T> part;
#pragma unroll
        for (int lane = 0; lane < kLanes<T>; ++lane) {
            part.lane[lane] = k + lane < length ? from[lane] : T{};
        }
        return part;
    }
};

// Where the pieces of a thread are between passes. Thread t of a team of n has the pieces t, t + n, ... of
// the row. each(body) calls body(k, piece) for them, k the first entry; in `batches` of no more entries than
// a thread's sums can take.

// In registers; kPieces for a thread are as many as there can be.
template <typename T, int kPieces>
class InRegisters {
  public:
    static constexpr int64_t batches = 1;

    template <typename Team>
    __device__ InRegisters(const Row<T>& row, const Team& team)
        : length_(row.length), first_(team.rank() * kLanes<T>), step_(team.size() * kLanes<T>) {
#pragma unroll
        for (int i = 0; i < kPieces; ++i) {
            const int k = first_ + i * step_;
            if (k < length_) piece_[i] = row.load(k);
        }
    }

    template <typename Body>
    __device__ __forceinline__ void each(int64_t, const Body& body) const {
#pragma unroll
        for (int i = 0; i < kPieces; ++i) {
            const int k = first_ + i * step_;
            if (k < length_) body(k, piece_[i]);
        }
    }

  private:
    Piece<T> piece_[kPieces];
    int length_, first_, step_;
};

// In the dynamic shared memory behind the team's: 16 bytes of neighbouring threads side by side.
template <typename T>
class InSharedMemory {
    using A = arithmetic_t<T>;
    static constexpr int kParts = kLanes<T> / kLanes<A>;  // of y in a piece, and of its limits

  public:
    static constexpr int64_t batches = 1;

    static size_t bytes_of_block(int64_t length, int blocks, int threads) {
        return ceil_div<int64_t>(length, int64_t{blocks} * threads * kLanes<T>) * threads * sizeof(Piece<T>);
    }

    template <typename Team>
    __device__ InSharedMemory(const Row<T>& row, const Team& team)
        : length_(row.length),
          first_(int64_t{team.rank()} * kLanes<T>),
          step_(int64_t{team.size()} * kLanes<T>),
          parts_(reinterpret_cast<Vector<A>*>(dynamic_shared<unsigned char>() + Team::kSharedBytes) +
                 threadIdx.x) {
        Vector<A>* to = parts_;
        for (int64_t k = first_; k < length_; k += step_) {
            const Piece<T> piece = row.load(k);
#pragma unroll
            for (int part = 0; part < kParts; ++part, to += 2 * blockDim.x) {
#pragma unroll
                for (int lane = 0; lane < kLanes<A>; ++lane) {
                    to[0].lane[lane] = piece.y[part * kLanes<A> + lane];
                    to[blockDim.x].lane[lane] = piece.limit[part * kLanes<A> + lane];
                }
            }
        }
    }

    template <typename Body>
    __device__ __forceinline__ void each(int64_t, const Body& body) const {
        const Vector<A>* from = parts_;
#pragma unroll 2
        for (int64_t k = first_; k < length_; k += step_) {
            Piece<T> piece;
#pragma unroll
            for (int part = 0; part < kParts; ++part, from += 2 * blockDim.x) {
                const Vector<A> y = from[0], limit = from[blockDim.x];
#pragma unroll
                for (int lane = 0; lane < kLanes<A>; ++lane) {
                    piece.y[part * kLanes<A> + lane] = y.lane[lane];
                    piece.limit[part * kLanes<A> + lane] = limit.lane[lane];
                }
            }
            body(k, piece);
        }
    }

  private:
    int64_t length_, first_, step_;
    Vector<A>* parts_;
};

// In the device's memory, or its cache: loaded again in each pass.
template <typename T>
class InDeviceMemory {
    static constexpr int kPieces = 4;  // on their way at a time

  public:
    const int64_t batches;

    template <typename Team>
    __device__ InDeviceMemory(const Row<T>& row, const Team& team)
        : batches(ceil_div<int64_t>(row.length, int64_t{team.size()} * kLanes<T> * kPieces)),
          row_(row),
          first_(int64_t{team.rank()} * kLanes<T>),
          step_(int64_t{team.size()} * kLanes<T>) {}

    template <typename Body>
    __device__ __forceinline__ void each(int64_t batch, const Body& body) const {
        const int64_t first = first_ + batch * kPieces * step_;
        Piece<T> piece[kPieces];
#pragma unroll
        for (int i = 0; i < kPieces; ++i) {
            if (first + i * step_ < row_.length) piece[i] = row_.load(first + i * step_);
        }
#pragma unroll
        for (int i = 0; i < kPieces; ++i) {
            if (first + i * step_ < row_.length) body(first + i * step_, piece[i]);
        }
    }

  private:
    const Row<T>& row_;
    int64_t first_, step_;
};

// ---------------------------------------------------------------------------------------------------- the
// balls

// Of the formulas in ball_search.h, for entries that are numbers: minima and maxima are single instructions
// then.
template <typename A>
__device__ __forceinline__ A entry(const Threshold<A>& threshold, A magnitude, A limit) {
    return min(max((magnitude - threshold.high) - threshold.low, A(0)), limit);
}
template <typename A>
__device__ __forceinline__ A entry(const Factor<A>& factor, A magnitude, A limit) {
    return min((magnitude * factor.unit) * factor.rest, limit);
}

// The largest magnitude of a row, and of the entries that reach as far as ε. As bits: NaN is more than any
// number.
template <typename A>
class Sizes {
    using Bits = typename FixedPoint<A>::Bits;

  public:
    __device__ __forceinline__ void take(A y, A limit, A eps) {
        const Bits size = bit_cast<Bits>(static_cast<A>(fabs(y)));
        largest_ = max(largest_, size);
        if (limit == eps) reaching_ = max(reaching_, size);
    }
    __device__ __forceinline__ void merge(const Sizes& other) {
        largest_ = max(largest_, other.largest_);
        reaching_ = max(reaching_, other.reaching_);
    }
    __device__ A largest() const { return bit_cast<A>(largest_); }
    __device__ A reaching() const { return bit_cast<A>(reaching_); }

  private:
    Bits largest_ = 0, reaching_ = 0;
};

// A ball: the search for its formula, and the sums that a pass takes for it. `unit` scales what is summed.

// The search lets a norm (or its square) be too large by a rounding or two. In float64, where those of its
// own arithmetic come on top, it is told of none that is: then more is too large by far more.
template <typename A>
__device__ double without_leeway(double norm, double target) {
    return sizeof(A) == 8 && norm > target ? norm + 0x1p-51 * norm : norm;
}

template <typename A>
class L1Ball {
  public:
    using Formula = Threshold<A>;
    struct Total {
        FixedTotal<A> norm;
        uint64_t free = 0;
        __device__ __forceinline__ void merge(const Total& other) {
            norm.merge(other.norm);
            free += other.free;
        }
    };
    class Sums {
      public:
        __device__ __forceinline__ void add(A delta, A limit, A unit) {
            norm_.add(norm_.term(delta, unit));
            free_ += delta > A(0) && delta < limit;
        }
        __device__ __forceinline__ Total total() const { return {norm_.total(), free_}; }

      private:
        FixedSum<A> norm_;
        uint32_t free_ = 0;
    };

    __device__ L1Ball(A eps, const Sizes<A>& sizes, A unit)
        : search_(eps, sizes.largest(), sizes.reaching()), eps_(eps), unit_(unit) {}

    static __device__ Formula any_formula() { return Formula(0.0); }
    __device__ Formula formula() const { return search_.threshold(); }
    __device__ bool found() const { return search_.found; }
    __device__ bool inside() const { return search_.inside(); }

    __device__ void update(const Total& total) {
        search_.update(without_leeway<A>(total.norm.value() / unit_, eps_), static_cast<double>(total.free));
    }

  private:
    L1Search<A> search_;
    A eps_, unit_;
};

template <typename A>
class L2Ball {
  public:
    using Formula = Factor<A>;
    struct Total {
        FixedTotal<A> all, clipped;
        __device__ __forceinline__ void merge(const Total& other) {
            all.merge(other.all);
            clipped.merge(other.clipped);
        }
    };
    class Sums {
      public:
        __device__ __forceinline__ void add(A delta, A limit, A unit) {
            const A scaled = delta * unit;
            const auto square = all_.term(scaled, scaled);
            all_.add(square);
            if (!(delta < limit)) clipped_.add(square);
        }
        __device__ __forceinline__ Total total() const { return {all_.total(), clipped_.total()}; }

      private:
        FixedSum<A> all_, clipped_;
    };

    __device__ L2Ball(A eps, const Sizes<A>& sizes, A unit)
        : search_(eps, sizes.largest()),
          eps_(eps),
          largest_(sizes.largest()),
          ratio_(L2Search<A>::square_unit(eps) / static_cast<double>(unit)) {}

    static __device__ Formula any_formula() { return Formula(A(1), 1.0); }
    __device__ Formula formula() const { return search_.factor(); }
    __device__ bool found() const { return search_.found; }
    __device__ bool inside() const { return search_.inside(); }

    __device__ void update(const Total& total) {
        const double target = L2Search<A>::square(eps_, L2Search<A>::square_unit(eps_));
        const double all = without_leeway<A>(total.all.value() * ratio_ * ratio_, target);
        const double clipped = total.clipped.value() * ratio_ * ratio_;
        search_.update(all - clipped, clipped);
        // The box aside, all entries are free where the largest is ε.
        const double scaled = static_cast<double>(largest_) * search_.factor().unit;
        if (first_) search_.guess_from(eps_, scaled * scaled);
        first_ = false;
    }

  private:
    L2Search<A> search_;
    A eps_, largest_;
    double ratio_;
    bool first_ = true;
};

// --------------------------------------------------------------------------------------------------- the
// kernels

template <typename Ball, typename T, typename Team, typename Entries>
__device__ void project_row(const Row<T>& row, Team& team, const Entries& entries) {
    using A = arithmetic_t<T>;
    Sizes<A> sizes;
    for (int64_t batch = 0; batch < entries.batches; ++batch) {
        entries.each(batch, [&](int64_t, const Piece<T>& piece) {
#pragma unroll
            for (int lane = 0; lane < kLanes<T>; ++lane) {
                sizes.take(piece.y[lane], piece.limit[lane], row.eps);
            }
        });
    }
    sizes = team.reduce(sizes);
    const A unit = row.unit(), largest = sizes.largest();
    Ball ball(row.eps, sizes, unit);

    enum State : int64_t { kSearching, kFound, kInside, kNotANumber };
    struct Plan {
        typename Ball::Formula formula = Ball::any_formula();
        State state = kSearching;
    };
    Plan plan =
        team.share([&]() -> Plan { return {ball.formula(), largest == largest ? kSearching : kNotANumber}; });
    // All threads of the row see the same plan: they leave together.
    while (plan.state == kSearching) {
        typename Ball::Total total{};
        for (int64_t batch = 0; batch < entries.batches; ++batch) {
            typename Ball::Sums sums;
            entries.each(batch, [&](int64_t, const Piece<T>& piece) {
#pragma unroll
                for (int lane = 0; lane < kLanes<T>; ++lane) {
                    const A most = piece.limit[lane];
                    sums.add(entry(plan.formula, static_cast<A>(fabs(piece.y[lane])), most), most, unit);
                }
            });
            total.merge(sums.total());
        }
        total = team.reduce(total);
        plan = team.share([&]() -> Plan {
            ball.update(total);
            return {ball.formula(), !ball.found() ? kSearching : ball.inside() ? kInside : kFound};
        });
    }
    const auto store = [&](const auto& formula) {
        for (int64_t batch = 0; batch < entries.batches; ++batch) {
            entries.each(batch, [&](int64_t k, const Piece<T>& piece) { row.store(k, piece, formula); });
        }
    };
    if (plan.state == kFound) {
        store(plan.formula);
    } else {  // as they are, within the box; or none is a number
        store(Threshold<A>(plan.state == kInside ? 0.0 : kNaN));
    }
}

template <typename Team, typename Entries, int kThreads, typename Ball, typename T>
__global__ void __launch_bounds__(kThreads) project_rows(Problem<T> p) {
    Team team;
    for (int64_t r = team.first_row(); r < p.rows; r += team.row_step()) {
        const Row<T> row(p, r);
        const Entries entries(row, team);
        project_row<Ball, T>(row, team, entries);
    }
    team.finish();
}

// -------------------------------------------------------------------------------------------- which of them

enum class Place { kAny, kWarp, kBlock, kCluster, kDeviceMemory };

struct Device {
    bool clusters;         // of up to 8 blocks
    bool large_clusters;   // of 16
    int64_t shared_bytes;  // of a block

    static Device current() {
        const int major = device_attribute(cudaDevAttrComputeCapabilityMajor);
        return {has_clusters(), major == 9 || major == 10,
                device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)};
    }
};

// Entries of a thread in registers, of float64 half as many: with their limits they take 64 registers.
template <typename T>
constexpr int kPieces = (sizeof(arithmetic_t<T>) == 4 ? 32 : 16) / kLanes<T>;
constexpr int kSmallThreads = 128, kLargeThreads = 512;
// Two blocks with as much shared memory each fit a multiprocessor of 228 KB: one loads while the other
// computes.
constexpr int64_t kHalfOfShared = 110 << 10;

// `place`: for tests; kAny chooses.
template <template <typename> typename Ball_, typename T>
void project_ball(Problem<T> p, const char* purpose, Place place, const Device& device, cudaStream_t stream) {
    using Ball = Ball_<arithmetic_t<T>>;
    using Block = BlockTeam<kSmallThreads, false>;
    using Cluster = BlockTeam<kLargeThreads, true>;
    if (p.length == 0) return;
    p.vectors = p.length % kLanes<T> == 0 && aligned16(p.delta, p.center, p.out);
    for (int64_t n = FixedTotal<arithmetic_t<T>>::kRange; n < p.length; n *= 2) p.scale /= 2;

    constexpr int64_t kOfThread = kPieces<T> * kLanes<T>;
    const auto shared_bytes = [&](int cluster) {
        return static_cast<int64_t>(Cluster::kSharedBytes +
                                    InSharedMemory<T>::bytes_of_block(p.length, cluster, kLargeThreads));
    };
    const int portable = device.clusters ? 8 : 1, most = device.large_clusters ? 16 : portable;
    int cluster = 1;
    while (cluster < portable && shared_bytes(cluster) > kHalfOfShared) cluster *= 2;
    while (cluster < most && shared_bytes(cluster) > device.shared_bytes) cluster *= 2;
    if (place == Place::kAny) {
        place = p.length <= kOfThread * kWarp                  ? Place::kWarp
                : p.length <= kOfThread * kSmallThreads        ? Place::kBlock
                : shared_bytes(cluster) <= device.shared_bytes ? Place::kCluster
                                                               : Place::kDeviceMemory;
    }
    Launch shape = {.blocks = p.rows, .threads = kSmallThreads, .purpose = purpose};
    switch (place) {
        case Place::kWarp:
            shape.blocks = ceil_div<int64_t>(p.rows, kSmallThreads / kWarp);
            return launch(project_rows<WarpTeam, InRegisters<T, kPieces<T>>, kSmallThreads, Ball, T>, shape,
                          stream, p);
        case Place::kBlock:
            shape.shared_bytes = Block::kSharedBytes;
            return launch(project_rows<Block, InRegisters<T, kPieces<T>>, kSmallThreads, Ball, T>, shape,
                          stream, p);
        case Place::kCluster:
            shape.threads = kLargeThreads;
            shape.cluster = cluster;
            shape.blocks = p.rows * cluster;
            shape.shared_bytes = shared_bytes(cluster);
            return launch(project_rows<Cluster, InSharedMemory<T>, kLargeThreads, Ball, T>, shape, stream, p);
        default:
            shape.threads = kLargeThreads;
            shape.cluster = portable;
            shape.blocks = p.rows * portable;
            shape.shared_bytes = Cluster::kSharedBytes;
            return launch(project_rows<Cluster, InDeviceMemory<T>, kLargeThreads, Ball, T>, shape, stream, p);
    }
}

}  // namespace

template <typename T>
void project_l1(const T* delta, const T* center, PerRow<arithmetic_t<T>> eps, arithmetic_t<T> lo,
                arithmetic_t<T> hi, int64_t rows, int64_t length, T* out, cudaStream_t stream) {
    project_ball<L1Ball, T>({delta, center, eps, lo, hi, rows, length, out}, "project_l1", Place::kAny,
                            Device::current(), stream);
}

template <typename T>
void project_l2(const T* delta, const T* center, PerRow<arithmetic_t<T>> eps, arithmetic_t<T> lo,
                arithmetic_t<T> hi, int64_t rows, int64_t length, T* out, cudaStream_t stream) {
    project_ball<L2Ball, T>({delta, center, eps, lo, hi, rows, length, out}, "project_l2", Place::kAny,
                            Device::current(), stream);
}

#define INTEGRALROB_INSTANTIATE(T)                                                            \
    template void project_l1<T>(const T*, const T*, PerRow<arithmetic_t<T>>, arithmetic_t<T>, \
                                arithmetic_t<T>, int64_t, int64_t, T*, cudaStream_t);         \
    template void project_l2<T>(const T*, const T*, PerRow<arithmetic_t<T>>, arithmetic_t<T>, \
                                arithmetic_t<T>, int64_t, int64_t, T*, cudaStream_t);
INTEGRALROB_INSTANTIATE(float)
INTEGRALROB_INSTANTIATE(double)
INTEGRALROB_INSTANTIATE(Half)
INTEGRALROB_INSTANTIATE(BFloat16)

}  // namespace integralrob::cuda
